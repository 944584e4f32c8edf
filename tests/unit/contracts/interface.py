"""Contract interfaces as comparable entries, read from signatures, artifacts and documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from eth_utils.crypto import keccak

REPOSITORY = Path(__file__).resolve().parents[3]
ARTIFACTS = REPOSITORY / "src" / "fabstir" / "chain" / "artifacts"
CANONICAL = Path(__file__).parent / "era_c.txt"
DOCUMENTATION = REPOSITORY / "docs" / "contracts.md"

Kind = Literal["function", "event", "error"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One input, output or field; `type` is canonical: a struct is its fields in brackets."""

    type: str
    name: str
    is_indexed: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A function, event or error of a contract."""

    kind: Kind
    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...] = ()
    mutability: str = "nonpayable"

    @property
    def signature(self) -> str:
        """What the selector or topic is the hash of."""
        return f"{self.name}({','.join(parameter.type for parameter in self.inputs)})"

    @property
    def key(self) -> str:
        """The signature with its kind: one name may be an event and a function."""
        return f"{self.kind} {self.signature}"

    @property
    def digest(self) -> bytes:
        """The event's topic, or the 4-byte selector of a function or error."""
        hashed = keccak(text=self.signature)
        return hashed if self.kind == "event" else hashed[:4]


def canonical_interface() -> dict[str, dict[str, Entry]]:
    """The entries of era_c.txt by contract and key."""
    contracts: dict[str, dict[str, Entry]] = {}
    entries: dict[str, Entry] = {}
    for line in CANONICAL.read_text("utf-8").splitlines():
        if line.startswith("["):
            entries = contracts.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            entry = parse_entry(line)
            entries[entry.key] = entry
    return contracts


def parse_entry(line: str) -> Entry:
    """Read `KIND NAME(INPUTS) [MUTABILITY] [-> (OUTPUTS)]`."""
    matched = re.fullmatch(r"(function|event|error) (\w+)(\(.*\))", line.split(" -> ")[0].strip())
    mutability = "nonpayable"
    if matched is None:
        matched = re.fullmatch(
            r"(function) (\w+)(\(.*\)) (view|pure|payable)", line.split(" -> ")[0].strip()
        )
        assert matched is not None, line
        mutability = matched[4]
    outputs = line.split(" -> ")[1] if " -> " in line else "()"
    return Entry(
        kind=cast(Kind, matched[1]),
        name=matched[2],
        inputs=parse_parameters(matched[3]),
        outputs=parse_parameters(outputs),
        mutability=mutability,
    )


def parse_parameters(text: str) -> tuple[Parameter, ...]:
    """Read `(type [indexed] [name], ...)`, where a type may itself be such a list."""
    return tuple(parse_parameter(part) for part in split_parameters(text[1:-1]))


def split_parameters(text: str) -> Iterator[str]:
    """Split at the commas that are in no bracket."""
    depth = 0
    start = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield text[start:index].strip()
            start = index + 1
    if text[start:].strip():
        yield text[start:].strip()


def parse_parameter(text: str) -> Parameter:
    """Read one `type [indexed] [name]`."""
    if text.startswith("("):
        end = text.rindex(")") + 1
        fields = ",".join(field.type for field in parse_parameters(text[:end]))
        return Parameter(type=f"({fields})", name=text[end:].strip())
    words = text.split()
    return Parameter(
        type=words[0],
        name=words[-1] if len(words) > 1 and words[-1] != "indexed" else "",
        is_indexed="indexed" in words[1:],
    )


def artifact_interface(contract: str) -> dict[str, Entry]:
    """The entries of a compiled contract's ABI by key; constructors are left out."""
    artifact = json.loads((ARTIFACTS / f"{contract}.json").read_text("utf-8"))
    entries = [
        abi_entry(item)
        for item in artifact["abi"]
        if item["type"] in ("function", "event", "error")
    ]
    return {entry.key: entry for entry in entries}


def abi_entry(item: dict[str, Any]) -> Entry:
    """Read one entry of a JSON ABI."""
    return Entry(
        kind=item["type"],
        name=item["name"],
        inputs=abi_parameters(item["inputs"]),
        outputs=abi_parameters(item.get("outputs", [])),
        mutability=item.get("stateMutability", "nonpayable"),
    )


def abi_parameters(items: list[dict[str, Any]]) -> tuple[Parameter, ...]:
    """Read the parameters of a JSON ABI entry."""
    return tuple(
        Parameter(
            type=abi_type(item), name=item["name"], is_indexed=bool(item.get("indexed", False))
        )
        for item in items
    )


def abi_type(item: dict[str, Any]) -> str:
    """The canonical type; a struct's is the list of its fields' types."""
    declared: str = item["type"]
    if not declared.startswith("tuple"):
        return declared
    fields = ",".join(abi_type(field) for field in item["components"])
    return f"({fields}){declared.removeprefix('tuple')}"
