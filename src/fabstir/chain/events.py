"""The contracts' events that nodes and clients follow, as frozen dataclasses.

`decode_event` turns a raw log into one of them; the types come from the artifacts' ABI.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from eth_abi.exceptions import DecodingError

from fabstir.chain.abi import Event, load_abi
from fabstir.chain.records import Log, LogFilter
from fabstir.primitives.errors import ChainError
from fabstir.primitives.ids import Address, Hash32, JobId, ModelId, hash32
from fabstir.primitives.units import PricePerToken, TokenCount, Wei


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """A deposit was locked. Every way of opening a session emits this one."""

    job_id: JobId
    depositor: Address
    host: Address
    model_id: ModelId
    deposit: Wei


@dataclass(frozen=True, slots=True)
class SessionCreatedByDelegate:
    """Beside SessionCreated: a delegate opened it with the payer's money."""

    job_id: JobId
    payer: Address
    delegate: Address
    host: Address
    model_id: ModelId
    amount: Wei


@dataclass(frozen=True, slots=True)
class ProofSubmitted:
    """The host claimed tokens."""

    job_id: JobId
    host: Address
    tokens_claimed: TokenCount
    proof_hash: Hash32
    proof_cid: str
    delta_cid: str


@dataclass(frozen=True, slots=True)
class SessionCompleted:
    """A session was settled by its depositor or host."""

    job_id: JobId
    tokens_used: TokenCount
    host_earnings: Wei
    """The host's share after the fee."""
    refund: Wei


@dataclass(frozen=True, slots=True)
class SessionCompletedBy:
    """Beside SessionCompleted: who did it."""

    job_id: JobId
    completed_by: Address
    tokens_used: TokenCount
    payment: Wei
    """Host's share and fee together."""
    refund: Wei


@dataclass(frozen=True, slots=True)
class SessionTimedOut:
    """A session was settled because its time, or its host's, was over."""

    job_id: JobId
    host_earnings: Wei
    refund: Wei


@dataclass(frozen=True, slots=True)
class RefundCredited:
    """A refund that the depositor refused waits in its deposit balance."""

    job_id: JobId
    depositor: Address
    amount: Wei
    token: Address


@dataclass(frozen=True, slots=True)
class HostShareCredited:
    """What a host earned could not be sent to HostEarnings: it waits in its deposit balance."""

    job_id: JobId
    host: Address
    amount: Wei
    token: Address


@dataclass(frozen=True, slots=True)
class DelegateAuthorized:
    """A depositor let a delegate act for it, or stopped it."""

    depositor: Address
    delegate: Address
    is_authorized: bool


@dataclass(frozen=True, slots=True)
class EarningsCredited:
    """HostEarnings holds more for a host."""

    host: Address
    token: Address
    amount: Wei
    balance: Wei


@dataclass(frozen=True, slots=True)
class EarningsWithdrawn:
    """A host took out what it earned."""

    host: Address
    token: Address
    amount: Wei
    balance: Wei


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """A host joined."""

    operator: Address
    staked_amount: Wei
    metadata: str
    models: tuple[ModelId, ...]


@dataclass(frozen=True, slots=True)
class NodeUnregistered:
    """A host left."""

    operator: Address
    returned_amount: Wei


@dataclass(frozen=True, slots=True)
class NodeMetadataUpdated:
    """A host replaced its metadata."""

    operator: Address
    metadata: str


@dataclass(frozen=True, slots=True)
class NodeApiUrlUpdated:
    """A host moved."""

    operator: Address
    api_url: str


@dataclass(frozen=True, slots=True)
class NodeModelsUpdated:
    """A host serves other models."""

    operator: Address
    models: tuple[ModelId, ...]


@dataclass(frozen=True, slots=True)
class NodePriceUpdated:
    """A host set a price; 0 when it cleared it."""

    operator: Address
    model_id: ModelId
    token: Address
    price: PricePerToken


@dataclass(frozen=True, slots=True)
class ModelAdded:
    """The registry lists one more model."""

    model_id: ModelId
    repo: str
    file: str
    tier: int


ChainEvent = (
    SessionCreated
    | SessionCreatedByDelegate
    | ProofSubmitted
    | SessionCompleted
    | SessionCompletedBy
    | SessionTimedOut
    | RefundCredited
    | HostShareCredited
    | DelegateAuthorized
    | EarningsCredited
    | EarningsWithdrawn
    | NodeRegistered
    | NodeUnregistered
    | NodeMetadataUpdated
    | NodeApiUrlUpdated
    | NodeModelsUpdated
    | NodePriceUpdated
    | ModelAdded
)


_MARKETPLACE = "JobMarketplaceWithModels"
_NODES = "NodeRegistryWithModels"

_SOURCES: dict[type[ChainEvent], tuple[str, str]] = {
    SessionCreated: (_MARKETPLACE, "SessionJobCreatedForModel"),
    SessionCreatedByDelegate: (_MARKETPLACE, "SessionCreatedByDelegate"),
    ProofSubmitted: (_MARKETPLACE, "ProofSubmitted"),
    SessionCompleted: (_MARKETPLACE, "SessionCompleted"),
    SessionCompletedBy: (_MARKETPLACE, "SessionCompletedBy"),
    SessionTimedOut: (_MARKETPLACE, "SessionTimedOut"),
    RefundCredited: (_MARKETPLACE, "RefundCreditedToDeposit"),
    HostShareCredited: (_MARKETPLACE, "HostShareCreditedToDeposit"),
    DelegateAuthorized: (_MARKETPLACE, "DelegateAuthorized"),
    EarningsCredited: ("HostEarnings", "EarningsCredited"),
    EarningsWithdrawn: ("HostEarnings", "EarningsWithdrawn"),
    NodeRegistered: (_NODES, "NodeRegistered"),
    NodeUnregistered: (_NODES, "NodeUnregistered"),
    NodeMetadataUpdated: (_NODES, "MetadataUpdated"),
    NodeApiUrlUpdated: (_NODES, "ApiUrlUpdated"),
    NodeModelsUpdated: (_NODES, "ModelsUpdated"),
    NodePriceUpdated: (_NODES, "ModelTokenPricingUpdated"),
    ModelAdded: ("ModelRegistry", "ModelAdded"),
}
"""Contract and event of each; a dataclass has the event's fields in the ABI's order."""


def decode_event(log: Log) -> ChainEvent | None:
    """The log as one of the events above; None for any other event.

    Raises:
        ChainError: the log has the event's topic but not its layout: not our contract.
    """
    entry = _by_topic().get(log.topics[0]) if log.topics else None
    if entry is None:
        return None
    event, kind = entry
    try:
        return kind(*(_to_id(value) for value in event.decode(log)))
    except DecodingError as exc:
        raise ChainError(
            f"{log.address} emitted a {event.signature} of another layout in {log.tx_hash}: "
            "the deployment file names a contract of another version"
        ) from exc


def event_filter(addresses: Iterable[Address], *events: type[ChainEvent]) -> LogFilter:
    """The filter for these events (all of the above if none is named) of these contracts."""
    topics = tuple(
        topic for topic, (_, kind) in _by_topic().items() if not events or kind in events
    )
    return LogFilter(addresses=tuple(addresses), topics=topics)


def _to_id(value: Any) -> Any:
    """bytes32 as identifiers; addresses are lower-case text already, numbers are numbers."""
    if isinstance(value, bytes):
        return hash32(value)
    if isinstance(value, tuple):
        return tuple(_to_id(item) for item in cast("tuple[Any, ...]", value))
    return value


@cache
def _by_topic() -> dict[bytes, tuple[Event, type[ChainEvent]]]:
    events = {kind: load_abi(contract).events[name] for kind, (contract, name) in _SOURCES.items()}
    return {event.topic: (event, kind) for kind, event in events.items()}
