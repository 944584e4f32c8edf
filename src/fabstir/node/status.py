"""What a host owns, earned and still has to settle, and why it may not be earning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from uuid import uuid4

from fabstir.chain.records import ContractCall
from fabstir.db.host_sessions import SessionState
from fabstir.market.ledger import LEFT, HostLedger
from fabstir.node.host_status import HostStatus
from fabstir.node.market import HostMarket
from fabstir.primitives.errors import TransactionReverted
from fabstir.primitives.ids import NATIVE_TOKEN, Address
from fabstir.primitives.units import Wei

LOW_COIN = Wei(10**15)
"""Below this a host soon cannot pay the gas of its claims."""


async def read_status(
    market: HostMarket,
    *,
    running: tuple[str, ...] | None,
    models: Mapping[str, str] = MappingProxyType({}),
) -> HostStatus:
    """Look at chain and journal.

    Args:
        running: what the running host complains about; None if it does not run.
        models: see `HostStatus.models`.
    """
    contracts, account = market.contracts, market.signer.address
    node = await contracts.nodes.node(account)
    coin = await market.chain.balance(account)
    ledger = HostLedger(market.db, market.settings.chain.chain_id, contracts.marketplace.address)
    sessions = await ledger.sessions(unsettled_only=False)
    settled = [row for row in sessions if row.state == SessionState.SETTLED]
    is_registered = node is not None and node.is_active
    return HostStatus(
        account=account,
        is_running=running is not None,
        is_registered=is_registered,
        api_url=node.api_url if node else "",
        stake=node.staked_amount if node else Wei(0),
        coin=coin,
        earned_native=await contracts.earnings.balance(account, NATIVE_TOKEN),
        earned_usdc=await contracts.earnings.balance(account, contracts.usdc.address),
        held_native=await contracts.marketplace.deposit_balance(account, NATIVE_TOKEN),
        held_usdc=await contracts.marketplace.deposit_balance(account, contracts.usdc.address),
        num_unsettled=len(sessions) - len(settled),
        num_settled=len(settled),
        tokens_settled=sum(row.tokens_settled or 0 for row in settled),
        tokens_written_off=sum(row.tokens_written_off for row in sessions),
        models=dict(models),
        reasons=_reasons(
            running,
            is_registered=is_registered,
            coin=coin,
            num_left=sum(row.outcome == LEFT for row in sessions),
        ),
    )


def _reasons(
    running: tuple[str, ...] | None, *, is_registered: bool, coin: Wei, num_left: int
) -> tuple[str, ...]:
    reasons = list(running) if running is not None else ["it does not run: `fabstir serve`"]
    if not is_registered:
        reasons.append("it is not registered, so nobody can open a session: `fabstir register`")
    if coin < LOW_COIN:
        reasons.append("its wallet has hardly any coin to pay for claims: send it some")
    if num_left:
        reasons.append(
            f"{num_left} sessions used so few tokens that claiming them would cost more than it "
            "brings, and are left to their renters: ask for larger deposits or a higher price "
            "(host.min_deposit_native, host.price_native_per_million) if there are many"
        )
    return tuple(reasons)


async def withdraw_all(market: HostMarket) -> tuple[Wei, Wei]:
    """Withdraw what was earned, wherever it lies; returns native coin and USDC.

    Raises:
        TransactionReverted: a token refuses to be sent to the host; the other is withdrawn.
    """
    amounts: list[Wei] = []
    refusal: TransactionReverted | None = None
    for token in (NATIVE_TOKEN, market.contracts.usdc.address):
        try:
            amounts.append(await _withdraw(market, token))
        except TransactionReverted as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return amounts[0], amounts[1]


async def _withdraw(market: HostMarket, token: Address) -> Wei:
    contracts, account = market.contracts, market.signer.address
    earned = await contracts.earnings.balance(account, token)
    if earned:
        await _send(market, contracts.earnings.withdraw_all(token))
    held = await contracts.marketplace.deposit_balance(account, token)
    if held:
        await _send(market, contracts.marketplace.withdraw(token, held))
    return Wei(earned + held)


async def _send(market: HostMarket, call: ContractCall) -> None:
    # Each withdrawal takes whatever is there, so each intention is a new one.
    await market.queue.send(f"{call.to}:withdraw:{uuid4().hex}", call)
