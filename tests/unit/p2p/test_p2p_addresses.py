from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from fabstir.p2p import P2PConfig
from fabstir.p2p._addresses import (
    advertised_addresses,
    checked_address,
    listen_addresses,
    parse_addresses,
    parse_peer,
)
from fabstir.p2p._workarounds import distinct_providers
from fabstir.p2p.limits import MAX_PROVIDER_ADDRESSES
from fabstir.primitives.errors import AddressRefused, ConfigError
from fabstir.web.reach import Reach

PEER = "12D3KooWBP5s5HzuMeRBB7t65kh3wuN5zNm1j9siY5bygRMW4fdH"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def config(**changes: object) -> P2PConfig:
    return P2PConfig(identity_path=Path("key"), **changes)  # pyright: ignore[reportArgumentType] - fields by name


def test_the_peer_part_is_taken_off() -> None:
    raw = [Multiaddr(f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}").to_bytes()]

    assert [str(address) for address in parse_addresses(raw)] == ["/ip4/1.2.3.4/tcp/1"]


def test_relayed_addresses_are_left_out() -> None:
    raw = [Multiaddr(f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit").to_bytes()]

    assert parse_addresses(raw) == []


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage_addresses_are_left_out(raw: list[bytes]) -> None:
    assert len(parse_addresses(raw)) <= MAX_PROVIDER_ADDRESSES


@pytest.mark.parametrize(
    "address", ["", "nonsense", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/0"]
)
def test_a_bootstrap_address_needs_a_peer_id(address: str) -> None:
    with pytest.raises(ConfigError, match=r"p2p\.bootstrap"):
        parse_peer(address, "p2p.bootstrap")


def test_websocket_is_listened_on_only_if_asked() -> None:
    assert len(listen_addresses(config())) == 1
    assert str(listen_addresses(config(ws_port=9001))[1]) == "/ip4/127.0.0.1/tcp/9001/ws"
    assert str(listen_addresses(config(listen_host="::1"))[0]) == "/ip6/::1/tcp/9000"


def test_a_host_name_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigError, match=r"p2p\.listen "):
        listen_addresses(config(listen_host="example.org"))


def test_announced_addresses_come_first() -> None:
    addresses = advertised_addresses(
        [Multiaddr("/ip4/127.0.0.1/tcp/9000")], [f"/ip4/203.0.113.7/tcp/9000/p2p/{PEER}"]
    )

    assert [str(address) for address in addresses] == [
        "/ip4/203.0.113.7/tcp/9000",
        "/ip4/127.0.0.1/tcp/9000",
    ]


def test_all_interfaces_become_dialable_addresses() -> None:
    listening = [Multiaddr("/ip4/0.0.0.0/tcp/9000"), Multiaddr("/ip4/0.0.0.0/tcp/9001/ws")]

    addresses = [str(address) for address in advertised_addresses(listening, [])]

    assert all("0.0.0.0" not in address for address in addresses)
    assert [address for address in addresses if address.endswith("/tcp/9000")]
    assert [address for address in addresses if address.endswith("/tcp/9001/ws")]


def test_a_malformed_announcement_is_named() -> None:
    with pytest.raises(ConfigError, match=r"p2p\.announce"):
        advertised_addresses([], ["example.org:9000"])


def test_a_provider_comes_once_with_all_its_addresses() -> None:
    peer, other = ID.from_base58(PEER), ID(b"\x00\x01\x02")
    first, second = Multiaddr("/ip4/1.2.3.4/tcp/1"), Multiaddr("/ip4/1.2.3.4/tcp/2")

    merged = distinct_providers(
        [PeerInfo(peer, [first]), PeerInfo(other, [first]), PeerInfo(peer, [first, second])]
    )

    assert merged == [PeerInfo(peer, [first, second]), PeerInfo(other, [first])]


async def _resolve(host: str, _port: int) -> list[str]:
    return {
        "public.example": ["8.8.8.8", "2606:4700::1111"],
        "evil.example": ["127.0.0.1"],
    }.get(host, [host])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("address", "dialled"),
    [
        ("/ip4/8.8.8.8/tcp/9000", "/ip4/8.8.8.8/tcp/9000"),
        ("/dns4/public.example/tcp/9000", "/ip4/8.8.8.8/tcp/9000"),
        ("/dns6/public.example/tcp/9000", "/ip6/2606:4700::1111/tcp/9000"),
        ("/dns/public.example/tcp/9000/ws", "/ip4/8.8.8.8/tcp/9000/ws"),
        ("/dns4/evil.example/tcp/9000", None),
        ("/dns4/localhost/tcp/9000", None),
        ("/ip4/127.0.0.1/tcp/22", None),
        ("/ip4/10.0.0.1/tcp/22", None),
        ("/ip4/169.254.169.254/tcp/80", None),
        ("/ip6/::1/tcp/22", None),
        ("/ip6/::ffff:7f00:1/tcp/22", None),
        ("/dnsaddr/public.example", None),
        ("/unix/tmp/x", None),
    ],
)
async def test_what_strangers_name_is_dialled_at_checked_addresses_only(
    address: str, dialled: str | None
) -> None:
    reach = Reach(resolve=_resolve)

    if dialled is None:
        with pytest.raises(AddressRefused):
            await checked_address(Multiaddr(address), reach)
    else:
        assert str(await checked_address(Multiaddr(address), reach)) == dialled
