"""The compiled contracts speak the interface of existing clients, as docs/contracts.md says."""

from __future__ import annotations

import re

import pytest
from eth_utils.crypto import keccak
from tests.unit.contracts.interface import (
    DOCUMENTATION,
    Entry,
    artifact_interface,
    canonical_interface,
    parse_entry,
)

CONTRACTS = tuple(canonical_interface())


def documented(contract: str) -> tuple[list[str], list[str], list[str]]:
    """What docs/contracts.md lists for a contract: the keys present, added and absent."""
    text = DOCUMENTATION.read_text("utf-8")
    section = text.split(f"\n### {contract}\n")[1].split("\n### ")[0]
    present = re.search(r"Present:\n\n```text\n(.*?)```", section, re.DOTALL)
    added = re.search(r"Added:\n\n```text\n(.*?)```", section, re.DOTALL)
    assert present is not None, contract
    return (
        present[1].splitlines(),
        added[1].splitlines() if added else [],
        re.findall(r"^\| `([^`]+)` \| .+ \|$", section, re.MULTILINE),
    )


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_entry_is_documented_once(contract: str) -> None:
    present, added, absent = documented(contract)

    canonical = canonical_interface()[contract]

    assert sorted(present + absent) == sorted(canonical)
    assert not set(added) & set(canonical)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_documentation_says_what_is_compiled(contract: str) -> None:
    present, added, absent = documented(contract)

    compiled = artifact_interface(contract)

    assert sorted(present + added) == sorted(compiled)
    assert not set(absent) & set(compiled)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_present_entries_are_the_canonical_ones(contract: str) -> None:
    present, _, _ = documented(contract)
    compiled = artifact_interface(contract)

    canonical = canonical_interface()[contract]

    for key in present:
        assert_same(compiled[key], canonical[key])


def assert_same(ours: Entry, theirs: Entry) -> None:
    """Compare selector or topic, mutability, layout and every name that is given."""
    assert ours.digest == theirs.digest
    assert ours.mutability == theirs.mutability, ours.key
    assert [output.type for output in ours.outputs] == [output.type for output in theirs.outputs]
    for mine, other in zip(ours.inputs + ours.outputs, theirs.inputs + theirs.outputs, strict=True):
        assert mine.is_indexed == other.is_indexed, ours.key
        assert other.name in ("", mine.name), ours.key


def test_session_getter_has_its_eighteen_fields_in_order() -> None:
    getter = artifact_interface("JobMarketplaceWithModels")["function sessionJobs(uint256)"]

    names = [output.name for output in getter.outputs]

    assert len(names) == 18
    assert names[10:13] == ["proofInterval", "proofTimeoutWindow", "status"]
    assert getter.outputs[12].type == "uint8"


@pytest.mark.parametrize(
    ("line", "signature"),
    [
        (
            "function getModel(bytes32 id) view -> ((string repo,bool active))",
            "getModel(bytes32)",
        ),
        (
            "function set((address a,(uint256 b,bytes c) d) config)",
            "set((address,(uint256,bytes)))",
        ),
        ("event Moved(address indexed from, uint256)", "Moved(address,uint256)"),
        ("error Nothing()", "Nothing()"),
    ],
)
def test_signatures_are_read(line: str, signature: str) -> None:
    entry = parse_entry(line)

    assert entry.signature == signature


def test_a_known_topic_and_selector() -> None:
    transfer = parse_entry(
        "event Transfer(address indexed from, address indexed to, uint256 value)"
    )
    approve = parse_entry("function approve(address spender, uint256 value) -> (bool)")

    assert transfer.digest == keccak(text="Transfer(address,address,uint256)")
    assert approve.digest.hex() == "095ea7b3"
