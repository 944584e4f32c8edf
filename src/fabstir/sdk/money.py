"""Payment tokens as people know them, and what a session cost in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fabstir.chain.contracts import Erc20
from fabstir.chain.rpc import Chain
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.ids import NATIVE_TOKEN, Address, Hash32, JobId
from fabstir.primitives.units import TokenCount, Wei, format_amount, parse_amount


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentToken:
    """What a session is paid in: the chain's own coin, or an ERC-20.

    Attributes:
        name: what our settings and commands call it: eth, usdc; "" for any other.
    """

    name: str
    address: Address
    symbol: str
    decimals: int

    def format(self, amount: int) -> str:
        """An amount in smallest units, as "0.05 ETH"."""
        return f"{format_amount(amount, self.decimals)} {self.symbol}"

    def parse(self, text: str) -> Wei:
        """An amount such as "0.05" in smallest units.

        Raises:
            ValueError: not a plain decimal number, negative, or finer than the token is.
        """
        return parse_amount(text, self.decimals)


NATIVE_COIN: PaymentToken = PaymentToken(
    name="eth", address=NATIVE_TOKEN, symbol="ETH", decimals=18
)
"""The coin of every chain that we know."""


async def read_token(chain: Chain, address: Address, name: str = "") -> PaymentToken:
    """Ask an ERC-20 for its name and decimals."""
    if address == NATIVE_TOKEN:
        return NATIVE_COIN
    token = Erc20(chain, address)
    return PaymentToken(
        name=name, address=address, symbol=await token.symbol(), decimals=await token.decimals()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettlement:
    """Where a session's deposit went, or until when it waits. Amounts in smallest units.

    Attributes:
        is_settled: the chain has settled it; otherwise the amounts are not known yet.
        outcome: completed, timed out, or why there was no session.
        tokens_agreed: completion tokens that we acknowledged.
        tokens_settled: completion tokens that were paid for.
        fee: the treasury's share of what was paid.
        tx_hash: with which it was settled, if that is not long ago.
        waits_until: Unix time on chain until which the host may claim what was agreed to.
    """

    session: str
    job_id: JobId | None
    token: PaymentToken
    is_settled: bool
    outcome: str
    deposit: Wei
    tokens_agreed: TokenCount
    tokens_settled: TokenCount
    host_paid: Wei
    fee: Wei
    refund: Wei
    tx_hash: Hash32 | None = None
    waits_until: int | None = None

    @property
    def tokens_overcharged(self) -> int:
        """Paid for without our agreement: the host lied to the contract."""
        return max(0, self.tokens_settled - self.tokens_agreed) if self.is_settled else 0

    @classmethod
    def of(
        cls,
        row: RenterSession,
        token: PaymentToken,
        tokens_agreed: TokenCount,
        *,
        tx_hash: Hash32 | None = None,
        waits_until: int | None = None,
    ) -> Self:
        """What the journal knows of a session."""
        is_settled = row.state is RenterState.SETTLED
        host_paid, refund = row.host_paid or Wei(0), row.refund or Wei(0)
        fee = Wei(row.deposit - host_paid - refund) if is_settled else Wei(0)
        return cls(
            session=row.id,
            job_id=row.job_id,
            token=token,
            is_settled=is_settled,
            outcome=row.outcome or row.state.value,
            deposit=row.deposit,
            tokens_agreed=tokens_agreed,
            tokens_settled=row.tokens_settled or TokenCount(0),
            host_paid=host_paid,
            fee=fee,
            refund=refund,
            tx_hash=tx_hash,
            waits_until=waits_until,
        )
