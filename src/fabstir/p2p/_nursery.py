"""Starting a task in one of the library's nurseries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


def start_in(
    nursery: trio.Nursery, function: Callable[..., Awaitable[object]], *arguments: object
) -> None:
    """`nursery.start_soon`, with a type."""
    nursery.start_soon(function, *arguments)  # pyright: ignore[reportUnknownMemberType] - stubs of an old trio, which libp2p's trio-typing brings
