"""The proxies that the environment names, as other programs read the same variables.

`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case. This machine itself is
never reached through a proxy, whatever they say.
"""

from __future__ import annotations

import ipaddress
import ssl
import urllib.request
from typing import Final

import httpx

from fabstir.web.addresses import is_loopback

_SCHEMES: Final = ("http", "https")
_OTHERS: Final = "all"

_USABLE: Final = frozenset({"http", "https", "socks5", "socks5h"})


class EnvironmentProxies:
    """Which transport the environment wants for a URL. Read once, opened when first used."""

    def __init__(self, *, verify: ssl.SSLContext | bool, limits: httpx.Limits) -> None:
        named = urllib.request.getproxies()
        self._urls = {
            scheme: url for scheme in _SCHEMES if (url := named.get(scheme) or named.get(_OTHERS))
        }
        self._bypassed = named.get("no", "")
        self._verify = verify
        self._limits = limits
        self._opened: dict[str, httpx.AsyncHTTPTransport] = {}

    def transport(self, url: httpx.URL) -> httpx.AsyncHTTPTransport | None:
        """The proxy's; None: this URL is reached without.

        Raises:
            httpx.ProxyError: the proxy is of a kind that cannot be used, or no URL.
        """
        proxy = self._urls.get(url.scheme)
        if proxy is None or is_loopback(url.host) or self._is_bypassed(url):
            return None
        if proxy not in self._opened:
            self._opened[proxy] = self._open(proxy)
        return self._opened[proxy]

    def _open(self, proxy: str) -> httpx.AsyncHTTPTransport:
        full = proxy if "://" in proxy else f"http://{proxy}"  # as curl reads it
        try:
            if httpx.URL(full).scheme in _USABLE:
                return _ProxyTransport(full, verify=self._verify, limits=self._limits)
        except (ValueError, httpx.InvalidURL):
            pass
        raise httpx.ProxyError(
            "the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) is no "
            f"URL of the kinds {', '.join(sorted(_USABLE))}: correct it, or unset it"
        )

    def _is_bypassed(self, url: httpx.URL) -> bool:
        host = f"{url.host}:{url.port}" if url.port else url.host
        entries = [entry.strip() for entry in self._bypassed.split(",")]
        if "*" in entries or urllib.request.proxy_bypass(host):
            return True
        try:
            address = ipaddress.ip_address(url.host)
        except ValueError:
            return False
        return any(address in network for network in _networks(entries))

    async def aclose(self) -> None:
        """Close what was opened."""
        for transport in self._opened.values():
            await transport.aclose()


class _ProxyTransport(httpx.AsyncHTTPTransport):
    """One proxy's, which is named where it fails: else whoever lies behind it would be blamed."""

    def __init__(self, proxy: str, *, verify: ssl.SSLContext | bool, limits: httpx.Limits) -> None:
        super().__init__(proxy=proxy, verify=verify, limits=limits)
        url = httpx.URL(proxy)
        self._name = f"{url.scheme}://{url.netloc.decode().rpartition('@')[2]}"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As of httpx.

        Raises:
            httpx.TransportError: of the same kind, with the proxy's name and no password.
        """
        try:
            return await super().handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as exc:
            reason = f"by the proxy {self._name}, which the environment names: {exc}"
            raise type(exc)(reason, request=request) from exc


def _networks(entries: list[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The networks in NO_PROXY, such as 10.0.0.0/8, which urllib takes for names."""
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for entry in entries:
        try:
            found.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            continue
    return found
