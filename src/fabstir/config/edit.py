"""Change single settings in the TOML file; comments and everything else stay as they are."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fabstir.config.settings import load_settings, parse_setting, read_document, read_edited
from fabstir.config.values import to_toml
from fabstir.primitives.errors import ConfigError


def set_settings(file: Path, changes: Mapping[str, str]) -> None:
    """Write settings into the file, which is created if it is absent.

    Args:
        file: the TOML file.
        changes: "section.name" to text; "" removes a setting that may be absent.

    Raises:
        ConfigError: a setting or a value is wrong, together with the others too; or the file
            writes it in a way that only a person can change. The file is as it was.
    """
    read_document(file)
    text, codec = read_edited(file)
    line_end = "\r\n" if "\r\n" in text else "\n"
    text = text.replace("\r\n", "\n")
    for key, value_text in changes.items():
        _refuse_bytes(key, value_text)
        value = parse_setting(key, value_text, folder=Path.cwd(), source="the command line")
        text = _edited(text, key, None if value is None else to_toml(value), file)
    _replace(file, text.replace("\n", line_end).encode(codec))


def _refuse_bytes(key: str, text: str) -> None:
    """Raises ConfigError: the command line had bytes that no locale of this process reads."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"the command line: {key} is {text!r}, which is no text in this locale: set LC_ALL to "
            "one of UTF-8, such as C.UTF-8, or write it into the file by hand"
        ) from exc


def _edited(text: str, key: str, literal: str | None, file: Path) -> str:
    """The text with one setting changed.

    A line editor cannot know all of TOML (inline tables, dotted keys, values of many lines),
    so its work is parsed again and must differ from the old in this one setting only.
    """
    section, _, name = key.partition(".")
    wanted: dict[str, Any] = tomllib.loads(text)
    table = dict[str, Any](wanted.get(section, {}))
    table.pop(name, None)
    if literal is not None:
        table[name] = tomllib.loads(f"value = {literal}")["value"]
    changed = _edit_lines(text.splitlines(), section, name, literal)
    result = "\n".join(changed) + "\n"
    if not _means(result, {**wanted, section: table}):
        raise ConfigError(
            f"{file} writes {key} in a form that cannot be changed line by line: "
            f"write it by hand as `{name} = {literal}` below [{section}]"
        )
    return result


def _edit_lines(lines: list[str], section: str, name: str, literal: str | None) -> list[str]:
    header = re.compile(rf"\s*\[\s*{section}\s*\]")
    start = next((i for i, line in enumerate(lines) if header.match(line)), None)
    if start is None:
        blank = [""] if lines else []
        return lines if literal is None else [*lines, *blank, f"[{section}]", f"{name} = {literal}"]
    following = range(start + 1, len(lines))
    end = next((i for i in following if lines[i].lstrip().startswith("[")), len(lines))
    setting = re.compile(rf"\s*{name}\s*=")
    at = next((i for i in range(start + 1, end) if setting.match(lines[i])), None)
    if at is not None:
        kept = [] if literal is None else [f"{name} = {literal}{_comment(lines[at])}"]
        return [*lines[:at], *kept, *lines[at + 1 :]]
    if literal is None:
        return lines
    while not lines[end - 1].strip():
        end -= 1
    return [*lines[:end], f"{name} = {literal}", *lines[end:]]


def _comment(line: str) -> str:
    """The comment at the end of a line: from the first # before which the line is whole."""
    for match in re.finditer(r"\s*#", line):
        try:
            tomllib.loads(line[: match.start()])
        except tomllib.TOMLDecodeError:
            continue
        return line[match.start() :]
    return ""


def _means(text: str, wanted: dict[str, Any]) -> bool:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    empty: dict[str, Any] = {}
    return {k: v for k, v in document.items() if v != empty} == {
        k: v for k, v in wanted.items() if v != empty
    }


def _replace(file: Path, content: bytes) -> None:
    """Check the new text as a whole, then put it in the file's place in one step.

    The place is what a symbolic link leads to; the link stays, and so does the file's mode.

    Raises:
        ConfigError: the new settings do not go together, or the file cannot be written.
    """
    try:
        _replace_target(file.resolve(), content)
    except OSError as exc:
        raise ConfigError(
            f"{file} cannot be written ({exc.strerror}): check who may write it and its folder"
        ) from exc


def _replace_target(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=file.name, dir=file.parent)
    candidate = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            if file.exists():
                os.fchmod(stream.fileno(), stat.S_IMODE(file.stat().st_mode))
            stream.flush()
            os.fsync(stream.fileno())
        load_settings(file=candidate, environ={})
        candidate.replace(file)
    finally:
        candidate.unlink(missing_ok=True)
