"""Portals by name. Nothing here is asked unless somebody configures it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from fabstir.s5.portals.http import parse_origin

PRESETS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"public": ("https://s5.vup.cx", "https://s5.garden", "https://node.sfive.net")}
)
"""Strangers' machines: what is stored there is as private as its encryption makes it."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """URLs of portals, where each is a URL or the name of a preset; each of them once.

    Raises:
        ConfigError: neither of them.
    """
    urls = (url for name in names for url in PRESETS.get(name, (name,)))
    return tuple(dict.fromkeys(parse_origin(url)[0] for url in urls))
