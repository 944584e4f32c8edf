"""Whose certificates are believed when this process calls others over TLS."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def trusted_certificates() -> ssl.SSLContext:
    """What the system trusts, besides httpx's own list; one for all clients of the process.

    Read once: a context takes 0.05 s. A host made four at its start, a client of the SDK three.
    """
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
