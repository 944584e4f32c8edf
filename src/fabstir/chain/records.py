"""What the chain's node answers, parsed once at this edge, and what we ask it to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
class Receipt:
    """What became of a mined transaction."""

    tx_hash: Hash32
    block_number: int
    block_hash: Hash32
    is_success: bool
    gas_used: int
    effective_gas_price: Wei
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


def parse_quantity(value: Any) -> int:
    """A JSON-RPC quantity ("0x1f") as an integer."""
    return int(value, 16)


def parse_data(value: Any) -> bytes:
    """JSON-RPC data ("0x...") as bytes."""
    return bytes.fromhex(value[2:])


def parse_block(raw: Any) -> Block:
    """A header of eth_getBlockByNumber."""
    return Block(
        number=parse_quantity(raw["number"]),
        hash=Hash32(raw["hash"].lower()),
        parent_hash=Hash32(raw["parentHash"].lower()),
        timestamp=parse_quantity(raw["timestamp"]),
    )


def parse_log(raw: Any) -> Log:
    """One element of eth_getLogs."""
    return Log(
        address=Address(raw["address"].lower()),
        topics=tuple(parse_data(topic) for topic in raw["topics"]),
        data=parse_data(raw["data"]),
        block_number=parse_quantity(raw["blockNumber"]),
        block_hash=Hash32(raw["blockHash"].lower()),
        tx_hash=Hash32(raw["transactionHash"].lower()),
        log_index=parse_quantity(raw["logIndex"]),
    )


def parse_receipt(raw: Any) -> Receipt:
    """The answer of eth_getTransactionReceipt."""
    created: str | None = raw.get("contractAddress")
    logs: Sequence[Any] = raw["logs"]
    return Receipt(
        tx_hash=Hash32(raw["transactionHash"].lower()),
        block_number=parse_quantity(raw["blockNumber"]),
        block_hash=Hash32(raw["blockHash"].lower()),
        is_success=parse_quantity(raw["status"]) == 1,
        gas_used=parse_quantity(raw["gasUsed"]),
        effective_gas_price=Wei(parse_quantity(raw["effectiveGasPrice"])),
        contract_address=Address(created.lower()) if created else None,
        logs=tuple(parse_log(log) for log in logs),
    )
