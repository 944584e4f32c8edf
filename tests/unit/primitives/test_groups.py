"""What is inside an exception group."""

from __future__ import annotations

import pytest

from fabstir.primitives.groups import leaves, only_error

ONE = ValueError("one")
TWO = OSError("two")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ONE, [ONE]),
        (ExceptionGroup("", [ONE]), [ONE]),
        (BaseExceptionGroup("", [ExceptionGroup("", [ONE]), TWO]), [ONE, TWO]),
        (BaseExceptionGroup("", [BaseExceptionGroup("", [TWO])]), [TWO]),
    ],
)
def test_the_errors_of_a_group_however_deep(
    error: BaseException, found: list[BaseException]
) -> None:
    assert leaves(error) == found
    assert only_error(error) is (found[0] if len(found) == 1 else None)
