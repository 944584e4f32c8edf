"""Structured logs: a constant message and values in `extra`, for people or as JSON lines.

Code logs with `logging.getLogger(__name__)`. ERROR means that an operator must act.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

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
        values = "".join(f" {key}={_one_line(v)}" for key, v in _values(record).items())
        line = f"{moment} {record.levelname:7} {name}: {record.getMessage()}"
        return line + (f" {values}" if values else "") + _traceback(self, record, "\n")


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
        if trace := _traceback(self, record):
            fields["traceback"] = trace
        return json.dumps(fields, default=str, ensure_ascii=False)


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


def _one_line(value: Any) -> str:
    """Quoted if it has spaces or control characters, so that nobody can forge a log line."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord, prefix: str = "") -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return prefix + formatter.formatException(record.exc_info)
