"""No stranger sends this program to its own machine: by no spelling, redirect or name server."""

from __future__ import annotations

import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from tests.unit.web.trap import open_trap, redirect
from websockets.exceptions import InvalidStatus

from fabstir.primitives.errors import AddressRefused
from fabstir.web.client import WebTransport, named_by_user
from fabstir.web.reach import STRANGERS, Reach
from fabstir.web.sockets import connect_websocket

pytestmark = pytest.mark.anyio

SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0x7f.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "0.0.0.0",
    "0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:1]",
]

DEVNET = Reach(allow_private=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client(reach: Reach, *, follow: bool = False) -> httpx.AsyncClient:
    transport = WebTransport(reach, limits=httpx.Limits())
    return httpx.AsyncClient(transport=transport, follow_redirects=follow, trust_env=False)


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_this_machine_is_fetched(host: str) -> None:
    async with open_trap() as trap, client(STRANGERS) as http:
        with pytest.raises((AddressRefused, httpx.ConnectError, httpx.InvalidURL)):
            await http.get(f"http://{host}:{trap.port}/admin/reboot")
        with pytest.raises((AddressRefused, OSError)):
            await connect_websocket(
                f"ws://{host}:{trap.port}/v1/ws", reach=STRANGERS, open_timeout=5
            )

    assert trap.num_connections == 0


async def test_the_refusal_names_the_address_and_the_setting() -> None:
    async with client(STRANGERS) as http:
        with pytest.raises(AddressRefused) as refused:
            await http.get("http://2130706433:1/")

    assert "2130706433 (127.0.0.1)" in str(refused.value)
    assert "network.allow_private = true" in str(refused.value)


async def test_a_devnet_is_reached_and_the_clouds_credentials_never() -> None:
    async with open_trap() as trap, client(DEVNET) as http:
        answer = await http.get(f"http://localhost:{trap.port}/v1/health")
        with pytest.raises(AddressRefused) as refused:
            await http.get("http://169.254.169.254/latest/meta-data")

    assert answer.text == "ok"
    assert "allow_private" not in str(refused.value)


async def test_a_url_with_a_query_goes_to_no_private_address_even_on_a_devnet() -> None:
    async with open_trap() as trap, client(DEVNET) as http:
        with pytest.raises(AddressRefused):
            await http.get(f"{trap.url}/admin/reboot?now=1")

    assert trap.num_connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
async def test_a_redirect_of_the_users_own_portal_leads_to_no_other_private_place(
    status: int, host: str
) -> None:
    async with open_trap() as trap:
        leads = redirect(f"http://{host}:{trap.port}/admin/reboot", status)
        async with open_trap(leads) as portal, client(STRANGERS, follow=True) as http:
            with pytest.raises(AddressRefused):
                await http.get(portal.url, extensions=named_by_user(portal.url))

    assert portal.num_connections == 1
    assert trap.num_connections == 0


async def test_what_the_user_named_is_asked_wherever_it_is() -> None:
    async with open_trap() as portal, client(STRANGERS) as http:
        answer = await http.get(f"{portal.url}/x?y", extensions=named_by_user(portal.url))

    assert answer.text == "ok"


async def test_a_connection_of_the_users_is_not_lent_to_a_stranger() -> None:
    keep = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with open_trap(keep) as portal, client(STRANGERS) as http:
        await http.get(portal.url, extensions=named_by_user(portal.url))
        with pytest.raises(AddressRefused):
            await http.get(f"{portal.url}/admin/reboot")

    assert portal.requests == ["GET / HTTP/1.1"]


async def test_a_name_that_resolves_to_public_and_private_is_refused() -> None:
    async def both(_host: str, _port: int) -> Sequence[str]:
        return ["8.8.8.8", "127.0.0.1"]

    with pytest.raises(AddressRefused):
        await Reach(resolve=both).addresses("evil.example", 80)


async def test_a_second_answer_of_the_name_server_does_not_count() -> None:
    """Asked once, refused or connected to: the address that was checked is the one dialled."""
    asked: list[str] = []

    async with open_trap() as trap:

        async def rebinding(host: str, _port: int) -> Sequence[str]:
            asked.append(host)
            # Public when it is checked; this machine, where the trap listens, ever after.
            return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

        reach = Reach(allow_private=True, resolve=rebinding)
        async with client(reach) as http:
            with pytest.raises(httpx.ConnectError):  # nobody listens at 127.0.0.2
                await http.get(f"http://evil.example:{trap.port}/")
        asked.clear()
        with pytest.raises(OSError, match="Connect call failed"):
            await connect_websocket(f"ws://evil.example:{trap.port}/", reach=reach, open_timeout=5)

    assert asked == ["evil.example"]
    assert trap.num_connections == 0


async def test_an_address_that_no_packet_reaches_costs_a_head_start_only() -> None:
    async def dead_first(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    reach = Reach(allow_private=True, resolve=dead_first)
    async with open_trap() as trap, client(reach) as http:
        with silent_address("127.0.0.2", trap.port):
            answer = await http.get(f"http://host.example:{trap.port}/x")
            with pytest.raises(InvalidStatus):  # it is there, though no WebSocket
                await connect_websocket(
                    f"ws://host.example:{trap.port}/", reach=reach, open_timeout=5
                )

    assert answer.text == "ok"
    assert trap.num_connections == 2


@contextmanager
def silent_address(host: str, port: int) -> Generator[None]:
    """Listens, but its queue is full, so that the kernel answers no more SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        yield


async def test_through_a_proxy_a_strangers_url_is_held_to_the_same_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_trap() as proxy:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        transport = WebTransport(DEVNET, limits=httpx.Limits(), trust_env=True)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
            for url in (
                "http://user:word@192.0.2.1/",
                "http://127.0.0.1:9/admin/reboot?now=1",
                "http://evil!host/",
            ):
                with pytest.raises(AddressRefused):
                    await http.get(url)
            answer = await http.get("http://8.8.8.8/x?y")

    assert answer.text == "ok"
    assert proxy.requests == ["GET http://8.8.8.8/x?y HTTP/1.1"]


async def test_host_and_port_of_the_url_are_what_the_server_sees() -> None:
    async def here(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with open_trap() as trap, client(Reach(allow_private=True, resolve=here)) as http:
        request = http.build_request("GET", f"http://host.example:{trap.port}/x")
        await http.send(request)

    assert request.headers["Host"] == f"host.example:{trap.port}"
    assert trap.requests == ["GET /x HTTP/1.1"]


async def test_no_websocket_is_redirected() -> None:
    async with open_trap() as trap, open_trap() as host:
        host.answer = redirect(f"ws://127.0.0.1:{trap.port}/admin")
        for reach in (None, DEVNET):
            with pytest.raises(InvalidStatus):
                await connect_websocket(f"ws://127.0.0.1:{host.port}/", reach=reach, open_timeout=5)

    assert trap.num_connections == 0


@pytest.mark.parametrize("url", ["ws://a/?q", "ws://u@a/", "http://a/", "ws://a/#x"])
async def test_a_websocket_of_a_stranger_has_a_strangers_url(url: str) -> None:
    with pytest.raises(AddressRefused):
        await connect_websocket(url, reach=STRANGERS, open_timeout=5)


async def test_a_user_in_a_redirect_is_refused() -> None:
    async with open_trap() as trap, client(DEVNET) as http:
        with pytest.raises(AddressRefused):
            await http.get(f"http://user:word@127.0.0.1:{trap.port}/")

    assert trap.num_connections == 0


@pytest.mark.parametrize("host", ["a..b", "xn--", "-", "nobody.invalid", "a" * 80])
async def test_a_name_that_is_none_is_an_error_of_the_system(host: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - its text is the system's
        await STRANGERS.addresses(host, 80)
