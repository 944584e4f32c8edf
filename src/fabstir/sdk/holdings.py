"""What a wallet has, and what stands in its journal: read beside whatever uses the wallet."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabstir.chain.contracts import Erc20
from fabstir.chain.rpc import Chain
from fabstir.primitives.ids import NATIVE_TOKEN, Address
from fabstir.primitives.units import Wei
from fabstir.sdk.journal import JournalReader
from fabstir.sdk.money import PaymentToken
from fabstir.sdk.rail import RailReader
from fabstir.sdk.session_info import SessionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletBalance:
    """What the wallet has of one payment token, in smallest units.

    Attributes:
        locked: in sessions that are not settled, as the contract counts them.
        in_contract: free in its contract: pre-deposits, and refunds that wait for withdrawal.
    """

    token: PaymentToken
    wallet: Wei
    locked: Wei
    in_contract: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """One wallet's balances on chain and sessions in the journal. Made by `open_holdings`.

    Attributes:
        wallet: the account that pays.
        tokens: the payment tokens it knows: the chain's coin and USDC.
    """

    wallet: Address
    tokens: tuple[PaymentToken, ...]
    chain: Chain = field(repr=False)
    rail: RailReader = field(repr=False)
    journal: JournalReader = field(repr=False)

    async def balances(self) -> tuple[WalletBalance, ...]:
        """What the wallet has, by payment token."""
        return tuple([await self.balance(token) for token in self.tokens])

    async def balance(self, token: PaymentToken) -> WalletBalance:
        """What the wallet has of one payment token."""
        if token.address == NATIVE_TOKEN:
            held = await self.chain.balance(self.wallet)
        else:
            held = await Erc20(self.chain, token.address).balance(self.wallet)
        committed = await self.rail.committed(self.wallet, token.address)
        return WalletBalance(
            token=token, wallet=held, locked=committed.locked, in_contract=committed.free
        )

    async def sessions(self) -> list[SessionInfo]:
        """Every session of this wallet in the journal, oldest first."""
        journal = self.journal
        rows = await journal.sessions()
        return [SessionInfo.of(row, await journal.tokens_agreed(row)) for row in rows]
