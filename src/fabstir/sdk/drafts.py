"""A session before its deposit: its terms, and the keys that will speak for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import uuid4

from fabstir.config import RenterSettings
from fabstir.db.renter import RenterSession
from fabstir.primitives.errors import ConfigError, LocalProtocolError
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ChainId
from fabstir.primitives.units import PRICE_PRECISION, TokenCount, Wei, tokens_for
from fabstir.sdk.money import PaymentToken
from fabstir.sdk.offers import HostOffer

DEFAULT_PROOF_INTERVAL: Final = TokenCount(1000)
"""Tokens between two claims of a host: era-C's default."""


def draft_session(
    offer: HostOffer,
    deposit: Wei,
    *,
    chain_id: ChainId,
    contract: Address,
    depositor: Address,
    settings: RenterSettings,
    proof_window: int | None = None,
    max_duration: int | None = None,
    proof_interval: TokenCount | None = None,
    random: Callable[[int], bytes],
    now: float,
) -> RenterSession:
    """A session as it is journalled before its deposit is sent, with fresh keys of its own.

    Args:
        proof_window, max_duration: seconds; None for those of the settings.
        proof_interval: tokens between claims; None for the default, or all if that is less.

    Raises:
        LocalProtocolError: an amount is not an integer: what is journalled must be readable.
        ConfigError: the deposit does not pay for a single token.
    """
    _require_deposit(deposit, offer.token)
    _require_whole("proof_window", proof_window, "seconds")
    _require_whole("max_duration", max_duration, "seconds")
    _require_whole("proof_interval", proof_interval, "tokens")
    affordable = tokens_for(deposit, offer.price_per_token)
    if affordable < 1:
        needed = -(-offer.price_per_token // PRICE_PRECISION)
        raise ConfigError(
            f"a deposit of {offer.token.format(deposit)} pays for no token of host {offer.host}: "
            f"deposit at least {offer.token.format(needed)}"
        )
    return RenterSession(
        id=str(uuid4()),
        chain_id=chain_id,
        contract=contract,
        depositor=depositor,
        host=offer.host,
        host_public_key=offer.public_key,
        api_url=offer.api_url,
        model_id=offer.model.model_id,
        model_name=offer.model.name,
        model_digest=offer.model.digest,
        payment_token=offer.token.address,
        deposit=deposit,
        price_per_token=offer.price_per_token,
        proof_interval=proof_interval or TokenCount(min(DEFAULT_PROOF_INTERVAL, affordable)),
        proof_window=settings.proof_window_seconds if proof_window is None else proof_window,
        max_duration=max_duration or settings.max_duration_seconds,
        session_secret=random(32),
        recovery_secret=random(32),
        created_at=now,
        last_used_at=now,
    )


def _require_deposit(deposit: object, token: PaymentToken) -> None:
    """Apps are not always checked for types, and a float is the first thing that one tries."""
    if not _is_whole(deposit):
        raise LocalProtocolError(
            f"a deposit is an int in the smallest unit of {token.symbol}, never {deposit!r}: "
            'offer.token.parse("0.001") makes one'
        )


def _require_whole(name: str, value: object, unit: str) -> None:
    if value is not None and not _is_whole(value):
        raise LocalProtocolError(f"{name} is an int ({unit}) or None, never {value!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def spending_cap(settings: RenterSettings, token: PaymentToken) -> Wei:
    """The most that may be locked of a payment token at a time."""
    is_native = token.address == NATIVE_TOKEN
    return settings.spending_cap_native if is_native else settings.spending_cap_usdc
