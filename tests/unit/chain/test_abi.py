"""ABIs, revert reasons and events, without a chain."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from eth_abi.abi import encode as abi_encode
from hypothesis import given
from hypothesis import strategies as st

from fabstir.chain.abi import ARTIFACTS, load_abi, revert_reason
from fabstir.chain.events import (
    _SOURCES,  # pyright: ignore[reportPrivateUsage] - its entries are what is tested
    EarningsWithdrawn,
    NodeUnregistered,
    decode_event,
    event_filter,
)
from fabstir.chain.records import Log
from fabstir.primitives.errors import ChainError, LocalProtocolError
from fabstir.primitives.ids import Address, Hash32
from fabstir.primitives.units import Wei

HOST = Address("0x" + "ab" * 20)


def log_of(event: str, contract: str, indexed: list[str], types: list[str], *values: Any) -> Log:
    topics = [load_abi(contract).events[event].topic]
    topics += [bytes(12) + bytes.fromhex(value[2:]) for value in indexed]
    return Log(
        address=HOST,
        topics=tuple(topics),
        data=abi_encode(types, values),
        block_number=1,
        block_hash=Hash32("0x" + "01" * 32),
        tx_hash=Hash32("0x" + "02" * 32),
        log_index=0,
    )


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_artifact_loads(name: str) -> None:
    abi = load_abi(name)

    assert abi.bytecode
    assert abi.functions


def test_known_selectors() -> None:
    functions = load_abi("TestFab").functions

    assert functions["transfer"].selector.hex() == "a9059cbb"
    assert functions["transfer(address,uint256)"] is functions["transfer"]


def test_tuples_are_written_out_in_signatures() -> None:
    function = load_abi("ModelRegistry").functions["getModel"]

    assert function.outputs == ("(string,string,bytes32,uint256,bool,uint256)",)


def test_arguments_that_do_not_fit_are_our_own_bug() -> None:
    with pytest.raises(LocalProtocolError, match="do not fit transfer"):
        load_abi("TestFab").functions["transfer"].encode(HOST, -1)
    with pytest.raises(LocalProtocolError, match="do not fit ModelRegistry"):
        load_abi("ModelRegistry").creation_code()


@pytest.mark.parametrize("size", [0, 31, 33, 64, 600])
def test_a_word_is_a_word_and_nothing_more(size: int) -> None:
    """600 bytes of 0xff were once read as the model of a session, by their first 32."""
    function = load_abi("JobMarketplaceWithModels").functions["sessionModel"]

    with pytest.raises(ChainError, match="which are not its outputs"):
        function.decode(b"\xff" * size)
    assert function.decode(b"\xff" * 32) == (b"\xff" * 32,)


def test_outputs_of_another_contract_are_an_error() -> None:
    with pytest.raises(ChainError, match="which are not its outputs"):
        load_abi("TestFab").functions["symbol"].decode(b"\x01")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", None),
        (bytes.fromhex("08c379a0") + abi_encode(["string"], ["Not host"]), "Not host"),
        (bytes.fromhex("4e487b71") + abi_encode(["uint256"], [0x11]), "arithmetic overflow"),
        (bytes.fromhex("4e487b71") + abi_encode(["uint256"], [0x99]), "panic 0x99"),
        (bytes.fromhex("deadbeef"), "unknown error 0xdeadbeef"),
        (bytes.fromhex("08c379a0") + b"cut", "unknown error 0x08c379a0637574"),
    ],
)
def test_revert_reasons(data: bytes, reason: str | None) -> None:
    assert revert_reason(data) == reason


def test_custom_errors_come_with_their_values() -> None:
    errors = load_abi("TestFab").errors
    [selector] = [key for key, value in errors.items() if value[0] == "ERC20InsufficientBalance"]

    reason = revert_reason(selector + abi_encode(["address", "uint256", "uint256"], [HOST, 1, 2]))

    assert reason == f"ERC20InsufficientBalance({HOST}, 1, 2)"


@given(st.binary(max_size=200))
def test_any_revert_data_gives_a_text(data: bytes) -> None:
    assert revert_reason(data) or not data


@pytest.mark.parametrize("kind", _SOURCES)
def test_every_event_has_as_many_fields_as_its_abi(kind: type) -> None:
    contract, name = _SOURCES[kind]

    assert len(fields(kind)) == len(load_abi(contract).events[name].fields)


def test_an_event_is_decoded() -> None:
    log = log_of(
        "EarningsWithdrawn", "HostEarnings", [HOST, HOST], ["uint256", "uint256"], 2**255, 0
    )

    assert decode_event(log) == EarningsWithdrawn(HOST, HOST, Wei(2**255), Wei(0))


def test_an_event_of_another_layout_is_an_error() -> None:
    log = log_of("NodeUnregistered", "NodeRegistryWithModels", [], ["uint256"], 1)

    with pytest.raises(ChainError, match="of another layout"):
        decode_event(log)


def test_a_filter_names_the_events_topics() -> None:
    topic = load_abi("NodeRegistryWithModels").events["NodeUnregistered"].topic

    params = event_filter([HOST], NodeUnregistered).to_params(1, 255)

    assert params == {
        "address": [HOST],
        "fromBlock": "0x1",
        "toBlock": "0xff",
        "topics": [["0x" + topic.hex()]],
    }
