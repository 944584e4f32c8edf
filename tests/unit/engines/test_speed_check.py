"""When a kept measurement of thread counts is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabstir.engines.llamacpp.calibration import SpeedCheck

MEASURED = 100.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    kept = tmp_path / "engine-threads.json"
    kept.write_text("{}")
    return kept


def test_answers_as_fast_as_measured_keep_it(file: Path) -> None:
    check = SpeedCheck(MEASURED, file)

    for speed in (60.0, 190.0) * 100:
        check.saw(100, 100 / speed)

    assert file.exists()


def test_one_that_is_much_faster_was_measured_on_a_busy_machine(file: Path) -> None:
    SpeedCheck(MEASURED, file).saw(100, 0.4)

    assert not file.exists()


def test_slow_answers_count_when_not_one_of_many_is_faster(file: Path) -> None:
    check = SpeedCheck(MEASURED, file)
    for _ in range(31):
        check.saw(100, 3.0)
    is_kept = file.exists()

    check.saw(100, 3.0)

    assert (is_kept, file.exists()) == (True, False)


@pytest.mark.parametrize(("num_tokens", "seconds"), [(23, 0.01), (0, 0.0), (100, 0.0)])
def test_what_says_nothing_is_passed_over(file: Path, num_tokens: int, seconds: float) -> None:
    SpeedCheck(MEASURED, file).saw(num_tokens, seconds)

    assert file.exists()
