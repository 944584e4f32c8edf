"""The money of one session, from every side, and whether it adds up.

Nothing here comes from the parties' own books: deposit, claims and refund are the contract's,
gas is summed over every transaction in the chain's blocks, and balances are the accounts' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from fabstir.chain.contracts import Contracts
from fabstir.chain.rpc import Chain
from fabstir.cli.output import table
from fabstir.crypto import checksum_address
from fabstir.market.settlement import settle
from fabstir.primitives.errors import ChainError, FabstirError
from fabstir.primitives.ids import NATIVE_TOKEN, Address, Hash32, JobId
from fabstir.primitives.units import PricePerToken, Wei, format_amount, price_per_million

_DECIMALS = 18


class BooksDisagree(FabstirError):
    """Money is missing, or there is more than there should be."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account's native coin before and after, and what it paid for gas in between."""

    address: Address
    before: Wei
    after: Wei
    gas: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMoney:
    """Where one native-coin deposit went. All amounts in wei."""

    job_id: JobId
    deposit: Wei
    tokens: int
    price: PricePerToken
    host: Wei
    treasury: Wei
    refund: Wei
    renter_account: Account
    host_account: Account

    def check(self, expected_host: Wei, expected_treasury: Wei, expected_refund: Wei) -> None:
        """Raises BooksDisagree: names every line that does not add up."""
        renter, host = self.renter_account, self.host_account
        lines = {
            "host + treasury + refund = deposit": (
                self.host + self.treasury + self.refund,
                self.deposit,
            ),
            "host's share as computed": (self.host, expected_host),
            "treasury's share as computed": (self.treasury, expected_treasury),
            "refund as computed": (self.refund, expected_refund),
            "renter: before - deposit + refund - gas = after": (
                renter.before - self.deposit + self.refund - renter.gas,
                renter.after,
            ),
            "host: before + share - gas = after": (host.before + self.host - host.gas, host.after),
        }
        wrong = [f"{name}: {a} is not {b}" for name, (a, b) in lines.items() if a != b]
        if wrong:
            raise BooksDisagree("the money does not add up: " + "; ".join(wrong))

    def render(self) -> Table:
        """For people; the columns add up."""

        def row(name: str, amount: int, note: str = "") -> tuple[str, str, str]:
            return name, f"{format_amount(amount, _DECIMALS)}", note

        renter, host = self.renter_account, self.host_account
        per_million = format_amount(price_per_million(self.price), _DECIMALS)
        rows = [
            row("deposit", self.deposit, f"session {self.job_id}"),
            row("  host", self.host, f"{self.tokens} tokens at {per_million} ETH per million"),
            row("  treasury", self.treasury, "its share of what the host earned"),
            row("  refund", self.refund, "back to the renter, by itself"),
            row("  sum", self.host + self.treasury + self.refund, "= deposit"),
            ("", "", ""),
            row("renter before", renter.before, checksum_address(renter.address)),
            row("  gas", -renter.gas),
            row("  paid", self.refund - self.deposit, "refund - deposit"),
            row("renter after", renter.after, "= before + gas + paid"),
            ("", "", ""),
            row("host before", host.before, checksum_address(host.address)),
            row("  gas", -host.gas, "claim, settlement, withdrawal"),
            row("  earned", self.host),
            row("host after", host.after, "= before + gas + earned"),
        ]
        made = table("money", "ETH", "", rows=rows)
        made.columns[1].justify = "right"
        return made


async def gas_spent(chain: Chain, account: Address, from_block: int) -> Wei:
    """What an account paid for gas since a block, summed over the chain itself."""
    spent = 0
    for number in range(from_block + 1, await chain.block_number() + 1):
        block: Any = await chain.request("eth_getBlockByNumber", [hex(number), True])
        for transaction in block["transactions"]:
            if transaction["from"].lower() == account:
                receipt = await chain.receipt(Hash32(transaction["hash"]))
                if receipt is None:
                    raise ChainError(f"no receipt for {transaction['hash']}")
                assert receipt.effective_gas_price is not None, "a devnet's receipts have it"
                spent += receipt.gas_used * receipt.effective_gas_price
    return Wei(spent)


async def read_money(
    chain: Chain,
    contracts: Contracts,
    job_id: JobId,
    *,
    renter: tuple[Address, Wei],
    host: tuple[Address, Wei],
    treasury_before: Wei,
    from_block: int,
) -> SessionMoney:
    """Read one settled native session from the chain, and check every sum.

    Args:
        renter, host: accounts and their coin at `from_block`.

    Raises:
        BooksDisagree: a sum is wrong.
    """
    job = await contracts.marketplace.session(job_id)
    terms = await contracts.marketplace.terms()
    assert job is not None, "the demo opened it"
    accounts = [
        Account(
            address,
            before,
            await chain.balance(address),
            await gas_spent(chain, address, from_block),
        )
        for address, before in (renter, host)
    ]
    treasury_now = await contracts.marketplace.treasury_accumulated(NATIVE_TOKEN)
    money = SessionMoney(
        job_id=job_id,
        deposit=job.deposit,
        tokens=job.tokens_used,
        price=job.price_per_token,
        host=job.withdrawn_by_host,
        treasury=Wei(treasury_now - treasury_before),
        refund=job.refunded_to_user,
        renter_account=accounts[0],
        host_account=accounts[1],
    )
    expected = settle(job.deposit, job.tokens_used, job.price_per_token, terms.fee)
    money.check(expected.host, expected.treasury, expected.refund)
    return money
