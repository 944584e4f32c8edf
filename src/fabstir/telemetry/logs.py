"""Structured logs: a constant message and values in `extra`, for people or as JSON lines.

Code logs with `logging.getLogger(__name__)`. ERROR means that an operator must act.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

from fabstir.primitives.text import MAX_LINE_CHARS, many_lines, one_line, plain_json

LogLevel = Literal["debug", "info", "warning", "error"]

REDACTED = "[redacted]"

SECRET_WORDS = (
    "password",
    "passphrase",
    "private_key",
    "secret",
    "session_key",
    "mnemonic",
    "seed_phrase",
    "prompt_text",
    "messages",
    "authorization",
    "api_key",
    "raw_transaction",
)
"""A value whose name contains one of these is never written, whoever passed it."""

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(
    level: LogLevel = "info", *, json_lines: bool = False, stream: TextIO | None = None
) -> None:
    """Send every log record of the process to one stream, in one form.

    Args:
        level: of our own loggers. Those of libraries write from WARNING on: at INFO some of
            them log each URL they ask, and with it an RPC provider's key.
        json_lines: one JSON object a line instead of text for people.
        stream: where to; None: standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fabstir").setLevel(level.upper())


class TextFormatter(logging.Formatter):
    """`12:30:59 WARNING jobs.session: proof late  job_id=7 seconds=12`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        name = record.name.removeprefix("fabstir.")
        values = "".join(f" {one_line(k)}={_quoted(v)}" for k, v in _values(record).items())
        line = f"{moment} {record.levelname:7} {name}: {one_line(record.getMessage())}"
        return line + (f" {values}" if values else "") + _traceback(record, "\n")


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `time` is UTC in ISO 8601."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_values(record),
        }
        if trace := _traceback(record):
            fields["traceback"] = trace
        return plain_json(fields, default=str)


def _values(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`, without secrets."""
    return {
        name: REDACTED if is_secret(name) else _guarded(value)
        for name, value in vars(record).items()
        if name not in _STANDARD_FIELDS
    }


def is_secret(name: str) -> bool:
    """Whether a value of this name must never be written."""
    return any(word in name.lower() for word in SECRET_WORDS)


def _guarded(value: Any) -> Any:
    """Keep mappings from smuggling a secret in; no bytes are written but as their length."""
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        return {
            key: REDACTED if is_secret(str(key)) else _guarded(entry)
            for key, entry in entries.items()
        }
    return f"<{len(value)} bytes>" if isinstance(value, bytes | bytearray) else value


def _quoted(value: Any) -> str:
    """Quoted if it has spaces or control characters, so that nobody can forge a log line."""
    text = str(value)
    if len(text) > MAX_LINE_CHARS:
        text = one_line(text)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def _traceback(record: logging.LogRecord, prefix: str = "") -> str:
    """Of several lines, none of which somebody's text in an error can make look like a record."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    parts = traceback.format_exception(*record.exc_info)
    return prefix + "\n".join(map(_continued, parts))


def _continued(part: str) -> str:
    first, *rest = many_lines(part.removesuffix("\n")).split("\n")
    return "\n".join([first, *(line if line[:1] == " " else f"  {line}" for line in rest)])
