"""What a log line holds, and what it never holds."""

import io
import json
import logging

import pytest

from fabstir.telemetry import LogLevel, configure_logging
from fabstir.telemetry.logs import REDACTED, SECRET_WORDS

logger = logging.getLogger("fabstir.serving.session")


pytestmark = pytest.mark.usefixtures("restored_logging")


def start(level: LogLevel = "info", *, json_lines: bool = False) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, json_lines=json_lines, stream=stream)
    return stream


def test_people_read_message_and_values_on_one_line() -> None:
    stream = start()

    logger.warning("proof late", extra={"job_id": 7, "reason": "no gas"})

    line = stream.getvalue()
    assert line[8:] == ' WARNING serving.session: proof late  job_id=7 reason="no gas"\n'


def test_a_value_cannot_forge_a_line() -> None:
    stream = start()

    logger.info("peer said", extra={"text": "x\n12:00:00 ERROR forged"})

    assert stream.getvalue().count("\n") == 1


def test_json_lines_hold_every_value() -> None:
    stream = start(json_lines=True)

    logger.info("session settled", extra={"job_id": 7, "refund": 10**20})

    fields = json.loads(stream.getvalue())
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "info",
        "logger": "fabstir.serving.session",
        "message": "session settled",
        "job_id": 7,
        "refund": 10**20,
    }


@pytest.mark.parametrize("json_lines", [True, False])
@pytest.mark.parametrize("word", SECRET_WORDS)
def test_no_secret_is_written(word: str, *, json_lines: bool) -> None:
    stream = start(json_lines=json_lines)

    logger.info("careless", extra={f"wallet_{word}": "hunter2", "nested": {word: {"x": "hunter2"}}})

    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count(REDACTED) == 2


@pytest.mark.parametrize("json_lines", [True, False])
def test_bytes_are_written_as_their_length(*, json_lines: bool) -> None:
    stream = start(json_lines=json_lines)

    logger.info("careless", extra={"key": b"hunter2", "nested": {"key": bytearray(b"hunter2")}})

    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("<7 bytes>") == 2


def test_a_traceback_is_kept() -> None:
    text, lines = io.StringIO(), start(json_lines=True)

    try:
        int("boom")
    except ValueError:
        logger.exception("failed")
        configure_logging(stream=text)
        logger.exception("failed")

    assert "ValueError: invalid literal" in json.loads(lines.getvalue())["traceback"]
    assert text.getvalue().splitlines()[-1].startswith("ValueError: invalid literal")


def test_libraries_are_quiet_and_our_level_is_the_asked_one() -> None:
    stream = start("debug")

    logging.getLogger("httpx").info("GET https://rpc.example/secret-key")
    logger.debug("ours")

    assert "ours" in stream.getvalue()
    assert "secret-key" not in stream.getvalue()
