"""What the chain's node answers, parsed once at this edge, and what we ask it to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from fabstir.primitives.ids import Address, Hash32
from fabstir.primitives.units import Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractCall:
    """A state-changing call, complete but for who sends it. Made by the contract wrappers."""

    to: Address | None
    """None creates a contract from `data`."""
    data: bytes
    value: Wei = Wei(0)
    """Native coin sent along."""
    description: str
    """What it does, for errors and the operator: "complete session 7"."""
    min_gas_limit: int = 0
    """What it may need if somebody else is mined before it, whatever it would take now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block's header, as far as we need it."""

    number: int
    hash: Hash32
    parent_hash: Hash32
    timestamp: int
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One event as the node returns it."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: Hash32
    tx_hash: Hash32
    log_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionReceipt:
    """What became of a mined transaction."""

    tx_hash: Hash32
    block_number: int
    block_hash: Hash32
    is_success: bool
    gas_used: int
    effective_gas_price: Wei | None
    """None: the node does not say (`Chain.price_paid` may)."""
    contract_address: Address | None
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers per unit of gas."""

    max_fee_per_gas: Wei
    max_priority_fee_per_gas: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which events to fetch: of any of these contracts, with any of these first topics."""

    addresses: tuple[Address, ...]
    topics: tuple[bytes, ...] = ()
    """First topics (event selectors); empty for all events."""

    def to_params(self, from_block: int, to_block: int) -> dict[str, Any]:
        """The parameter object of eth_getLogs."""
        params: dict[str, Any] = {
            "address": list(self.addresses),
            "fromBlock": hex(from_block),
            "toBlock": hex(to_block),
        }
        if self.topics:
            params["topics"] = [["0x" + topic.hex() for topic in self.topics]]
        return params


MAX_COUNT: Final = 2**53
"""No height, time, nonce or gas of any chain reaches it, and SQLite's integers hold it."""

MAX_FEE: Final = 2**60
"""Wei for a unit of gas: more than a whole coin. A node that asks for more is out of order."""

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_MAX_SHOWN_CHARS = 60

T = TypeVar("T")


def parse_quantity(value: object) -> int:
    """A JSON-RPC quantity ("0x1f") as an integer.

    Raises:
        ValueError: it is none, as every function below does; the text shows what came instead.
    """
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise _not(value, "a quantity such as 0x1f")
    return int(value, 16)


def parse_count(value: object) -> int:
    """A quantity that counts something: blocks, seconds, gas, transactions."""
    return _bounded(parse_quantity(value), MAX_COUNT)


def parse_fee(value: object) -> Wei:
    """A quantity that is a price of gas, in wei."""
    return Wei(_bounded(parse_quantity(value), MAX_FEE))


def parse_data(value: object) -> bytes:
    """JSON-RPC data ("0x...") as bytes."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise _not(value, "data such as 0x1f2e")
    return bytes.fromhex(value[2:])


def parse_object(value: object) -> Mapping[str, object]:
    """A JSON object; reading a field that it lacks gives None."""
    if not isinstance(value, dict):
        raise _not(value, "an object")
    return defaultdict(lambda: None, cast("dict[str, object]", value))


def parse_list(value: object, parse_item: Callable[[object], T]) -> tuple[T, ...]:
    """A JSON list of things of one kind."""
    if not isinstance(value, list):
        raise _not(value, "a list")
    return tuple(parse_item(item) for item in cast("list[object]", value))


def or_none(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """The same, where null is an answer too."""
    return lambda value: None if value is None else parse(value)


def parse_block(value: object) -> Block:
    """A header of eth_getBlockByNumber."""
    raw = parse_object(value)
    return Block(
        number=parse_count(raw["number"]),
        hash=_parse_hash(raw["hash"]),
        parent_hash=_parse_hash(raw["parentHash"]),
        timestamp=parse_count(raw["timestamp"]),
    )


def parse_log(value: object) -> Log:
    """One element of eth_getLogs."""
    raw = parse_object(value)
    return Log(
        address=_parse_address(raw["address"]),
        topics=parse_list(raw["topics"], _parse_topic),
        data=parse_data(raw["data"]),
        block_number=parse_count(raw["blockNumber"]),
        block_hash=_parse_hash(raw["blockHash"]),
        tx_hash=_parse_hash(raw["transactionHash"]),
        log_index=parse_count(raw["logIndex"]),
    )


def parse_logs(value: object) -> tuple[Log, ...]:
    """The answer of eth_getLogs."""
    return parse_list(value, parse_log)


def parse_receipt(value: object) -> TransactionReceipt | None:
    """The answer of eth_getTransactionReceipt; None while the transaction is in no block."""
    if value is None:
        return None
    raw = parse_object(value)
    if raw["blockNumber"] is None or raw["blockHash"] is None:
        return None  # of a transaction that a sequencer has only announced
    price, created = raw["effectiveGasPrice"], raw["contractAddress"]
    return TransactionReceipt(
        tx_hash=_parse_hash(raw["transactionHash"]),
        block_number=parse_count(raw["blockNumber"]),
        block_hash=_parse_hash(raw["blockHash"]),
        is_success=parse_quantity(raw["status"]) == 1,
        gas_used=parse_count(raw["gasUsed"]),
        effective_gas_price=None if price is None else parse_fee(price),
        contract_address=_parse_address(created) if created else None,
        logs=parse_logs(raw["logs"]),
    )


def parse_next_base_fee(value: object) -> Wei:
    """The base fee of the block after the newest, from eth_feeHistory."""
    fees = parse_list(parse_object(value)["baseFeePerGas"], parse_fee)
    if not fees:
        raise ValueError("its list of base fees is empty")
    return fees[-1]


def parse_base_fee(value: object) -> Wei:
    """The base fee of a header."""
    return parse_fee(parse_object(value)["baseFeePerGas"])


def parse_gas_price(value: object) -> Wei:
    """What a transaction that is in the chain pays for a unit of gas."""
    return parse_fee(parse_object(value)["gasPrice"])


def parse_text(value: object) -> str:
    """A JSON string."""
    if not isinstance(value, str):
        raise _not(value, "a text")
    return value


def _parse_hash(value: object) -> Hash32:
    if len(parse_data(value)) != 32:
        raise _not(value, "a hash of 32 bytes")
    return Hash32(cast(str, value).lower())


def _parse_topic(value: object) -> bytes:
    return bytes.fromhex(_parse_hash(value)[2:])


def _parse_address(value: object) -> Address:
    if len(parse_data(value)) != 20:
        raise _not(value, "an address of 20 bytes")
    return Address(cast(str, value).lower())


def _bounded(number: int, limit: int) -> int:
    if number > limit:
        raise ValueError(f"{hex(number)} is beyond {limit}")
    return number


def _not(value: object, expected: str) -> ValueError:
    return ValueError(f"{_shown(value)} instead of {expected}")


def _shown(value: object) -> str:
    """Enough to see what it is; `value` may be megabytes."""
    if isinstance(value, str) and len(value) > _MAX_SHOWN_CHARS:
        return repr(value[:_MAX_SHOWN_CHARS]) + "..."
    if isinstance(value, list):
        return f"a list of {len(cast('list[object]', value))}"
    return "an object" if isinstance(value, dict) else repr(value)
