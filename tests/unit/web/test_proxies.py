"""Which URLs the environment's proxies are for, and what a proxy may be."""

from __future__ import annotations

import httpx
import pytest

from fabstir.web.addresses import is_loopback
from fabstir.web.proxies import EnvironmentProxies

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def is_proxied(url: str) -> bool:
    proxies = EnvironmentProxies(verify=False, limits=httpx.Limits())
    return proxies.transport(httpx.URL(url)) is not None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_this_machine_is_never_proxied(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://10.0.0.1:1080")

    assert is_loopback(httpx.URL(f"http://{host}/").host)
    assert not is_proxied(f"http://{host}:8080/")
    assert is_proxied("http://example.com/")


@pytest.mark.parametrize("proxy", ["socks5://p:1", "socks5h://p:1", "http://p:1", "p:1"])
def test_every_usable_kind_is_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)

    assert is_proxied("https://example.com/")
    assert not is_proxied("http://example.com/")


@pytest.mark.parametrize("proxy", ["ftp://p:1", "::::", "socks4://p:1"])
def test_a_proxy_that_cannot_be_used_is_refused_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)

    assert not is_proxied("http://127.0.0.1/")
    with pytest.raises(httpx.ProxyError, match="HTTP_PROXY"):
        is_proxied("http://example.com/")


@pytest.mark.parametrize("bypassed", ["example.com", ".example.com", "example.com:80", "*"])
def test_names_in_no_proxy_are_reached_directly(
    monkeypatch: pytest.MonkeyPatch, bypassed: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", f"other.net, {bypassed}")

    assert not is_proxied("http://www.example.com/") or bypassed == "example.com:80"


def test_networks_in_no_proxy_are_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "localhost,10.0.0.0/8")

    assert not is_proxied("http://10.1.2.3/")
    assert is_proxied("http://11.1.2.3/")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_a_proxy_that_is_away_is_named_and_its_password_is_not(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"{kind}://user:hunter2@127.0.0.1:1")
    proxies = EnvironmentProxies(verify=False, limits=httpx.Limits())
    request = httpx.Request("GET", "http://198.51.100.1/")
    transport = proxies.transport(request.url)
    assert transport is not None

    with pytest.raises(httpx.ConnectError, match=rf"by the proxy {kind}://127\.0\.0\.1:1,") as away:
        await transport.handle_async_request(request)

    assert "hunter2" not in str(away.value)
    await proxies.aclose()
