"""What a host's owner is told of it, by the running host or by the command that looks itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, cast

from fabstir.primitives.encoding import Json
from fabstir.primitives.ids import Address
from fabstir.primitives.units import Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """Money in smallest units.

    Attributes:
        earned_native, earned_usdc: in the earnings contract.
        held_native, held_usdc: in the marketplace, because it could not be sent there.
        models: the state of the engine of each, while it runs.
        reasons: what keeps this host from earning, each with its fix.
    """

    account: Address
    is_running: bool
    is_registered: bool
    api_url: str
    stake: Wei
    coin: Wei
    earned_native: Wei
    earned_usdc: Wei
    held_native: Wei
    held_usdc: Wei
    num_unsettled: int
    num_settled: int
    tokens_settled: int
    tokens_written_off: int
    models: Mapping[str, str]
    reasons: tuple[str, ...]

    def to_json(self) -> Json:
        """As the running host tells it."""
        return cast("Json", asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """As the command reads it."""
        known: dict[str, Any] = {**values}
        known["reasons"] = tuple(known["reasons"])
        return cls(**known)
