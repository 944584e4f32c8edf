"""What is inside an exception group: task groups wrap whatever passes through them."""

from __future__ import annotations

from typing import cast


def leaves(error: BaseException) -> list[BaseException]:
    """The errors that a group holds, however deep, in order; of what is no group: itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for inner in group.exceptions for leaf in leaves(inner)]


def only_error(error: BaseException) -> BaseException | None:
    """The one error that a group holds, however deep; None if there are several."""
    found = leaves(error)
    return found[0] if len(found) == 1 else None
