"""Whose certificates are believed when this process calls others over TLS."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def trusted_certificates() -> ssl.SSLContext:
    """What the system trusts, besides httpx's own list; one for all clients of the process.

    Read once: a host opened nine of these at its start, 0.03 to 0.1 s each, and a client of the SDK
    another three.
    """
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
