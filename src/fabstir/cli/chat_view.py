"""What `fabstir chat` shows: for people in a terminal, or as JSON lines for programs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from fabstir.cli.output import console, print_result, say, say_part, table, write_json, writing_out
from fabstir.crypto import checksum_address
from fabstir.primitives.text import one_line
from fabstir.primitives.units import format_amount
from fabstir.sdk import (
    NATIVE_COIN,
    Finished,
    HostOffer,
    PaymentToken,
    Quote,
    ReceiptVerified,
    Text,
)

if TYPE_CHECKING:
    from fabstir.sdk import (
        Address,
        AnswerEvent,
        AsyncSession,
        FabstirError,
        SessionInfo,
        SessionSettlement,
        TokenCount,
        Wei,
    )

_REASONS = {
    "stop": "",
    "length": "cut off at the longest answer or the context's end",
    "deposit_exhausted": "the deposit is used up: /quit settles",
    "draining": "the host is shutting down",
    "unknown": "ended, for a reason of the host's own",
}
"""Why an answer ended, where its own name does not say it."""


class Spending(Protocol):
    """What a session has cost so far; see `sdk.AsyncSession`."""

    @property
    def token(self) -> PaymentToken: ...
    @property
    def tokens(self) -> TokenCount: ...
    @property
    def cost(self) -> Wei: ...
    @property
    def deposit_left(self) -> Wei: ...


class ChatView(Protocol):
    """Both forms show the same facts."""

    def quote(self, quote: Quote) -> None:
        """Before the deposit."""
        ...

    def opened(self, session: AsyncSession) -> None:
        """The deposit is in the chain."""
        ...

    def prompt(self) -> None:
        """The user is to write."""
        ...

    def event(self, event: AnswerEvent) -> None:
        """A piece of an answer."""
        ...

    def answered(self, session: Spending) -> None:
        """An answer is over."""
        ...

    def note(self, text: str) -> None:
        """Something to know, in our own words."""
        ...

    def failed(self, error: FabstirError) -> None:
        """An answer that did not come; the error's text may be the host's."""
        ...

    def settled(self, settlement: SessionSettlement) -> None:
        """Where the money went."""
        ...


class TerminalView:
    """For people: the answer streams, and one line after it says what it cost."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._num_tokens = 0
        self._num_receipts = 0
        self._finish_reason = ""

    def quote(self, quote: Quote) -> None:
        offer, money = quote.offer, quote.offer.token.format
        rows = [
            ("host", checksum_address(offer.host)),
            ("url", offer.api_url),
            ("model", f"{offer.model.name}, {offer.max_model_len} tokens of context"),
            ("latency", f"{offer.latency * 1000:.0f} ms"),
            ("price", f"{money(offer.price_per_million)} per million tokens"),
            ("deposit", f"{money(quote.deposit)}, pays for {quote.max_tokens:,} tokens"),
            ("gas to open", f"at most {_coin(quote.gas_to_open)}"),
            ("gas to close", f"at most {_coin(quote.gas_to_close)}, if the host does not"),
        ]
        with writing_out():
            print_result(console, table("session", "", rows=rows))

    def opened(self, session: AsyncSession) -> None:
        say(
            f"Session {session.job_id} is open. /help shows what you can do; Ctrl-C stops an "
            "answer, twice leaves and settles.",
            style="dim",
        )

    def prompt(self) -> None:
        self._num_tokens, self._finish_reason = 0, ""  # an answer that failed left some
        if sys.stdin.isatty():
            say_part("\nyou ", style="bold cyan")

    def event(self, event: AnswerEvent) -> None:
        match event:
            case Text():
                if not self._num_tokens:
                    self._started = time.monotonic()
                self._num_tokens += event.num_tokens
                say_part(event.text)
            case ReceiptVerified():
                self._num_receipts += 1
            case Finished():
                self._finish_reason = event.finish_reason

    def answered(self, session: Spending) -> None:
        money = session.token.format
        seconds = time.monotonic() - self._started
        parts = [
            f"{self._num_tokens} tokens",
            f"{self._num_tokens / seconds:.0f}/s" if seconds > 0 else "",
            _REASONS.get(self._finish_reason, self._finish_reason),
            f"{session.tokens} in all cost {money(session.cost)}",
            f"{money(session.deposit_left)} left",
            f"{self._num_receipts} receipt{'' if self._num_receipts == 1 else 's'} verified",
        ]
        say("\n" + one_line(" · ".join(part for part in parts if part)), style="dim")

    def note(self, text: str) -> None:
        say(text, style="yellow")

    def failed(self, error: FabstirError) -> None:
        say(one_line(f"error: {error}"), style="yellow")

    def settled(self, settlement: SessionSettlement) -> None:
        with writing_out():
            print_result(console, settlement_table(settlement))


class JsonView:
    """For programs: one JSON object a line."""

    def quote(self, quote: Quote) -> None:
        _line(
            "quote",
            **offer_json(quote.offer),
            deposit=quote.deposit,
            max_tokens=quote.max_tokens,
            gas_to_open=quote.gas_to_open,
            gas_to_close=quote.gas_to_close,
        )

    def opened(self, session: AsyncSession) -> None:
        _line("opened", session=session.id, job_id=session.job_id)

    def prompt(self) -> None:
        """Programs know that they are to write."""

    def event(self, event: AnswerEvent) -> None:
        match event:
            case Text():
                _line("text", text=event.text, num_tokens=event.num_tokens)
            case ReceiptVerified():
                _line(
                    "receipt",
                    receipt=event.receipt.to_json(),
                    cumulative_tokens=event.cumulative_tokens,
                    cost=event.cost,
                    deposit_left=event.deposit_left,
                )
            case Finished():
                _line(
                    "finished",
                    finish_reason=event.finish_reason,
                    num_prompt_tokens=event.num_prompt_tokens,
                    num_completion_tokens=event.num_completion_tokens,
                )

    def answered(self, session: Spending) -> None:
        """The events have said it all."""

    def note(self, text: str) -> None:
        _line("note", text=text.strip())  # an empty line before it is for terminals

    def failed(self, error: FabstirError) -> None:
        _line("note", text=f"error: {error}")

    def settled(self, settlement: SessionSettlement) -> None:
        _line("settlement", **settlement_json(settlement))


def short_address(address: Address) -> str:
    """Enough to tell accounts apart in a table; --json has all of it."""
    text = checksum_address(address)
    return f"{text[:8]}…{text[-6:]}"


def settlement_table(settlement: SessionSettlement) -> Any:
    """Where one session's deposit went, as people read it."""
    money = settlement.token.format
    rows = [
        ("outcome", settlement.outcome),
        ("tokens", f"{settlement.tokens_settled} paid, {settlement.tokens_agreed} acknowledged"),
        ("deposit", money(settlement.deposit)),
    ]
    if settlement.tokens_overcharged:
        rows.append(("OVERCHARGED", _overcharge(settlement)))
    if settlement.is_settled:
        rows += [
            ("host", money(settlement.host_paid)),
            ("treasury", money(settlement.fee)),
            ("refund", money(settlement.refund)),
            ("transaction", settlement.tx_hash or "not recent"),
        ]
    elif settlement.waits_until is not None:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(settlement.waits_until))
        rows.append(
            ("waits", f"the host may claim what was acknowledged until {until} (chain time)")
        )
    return table(f"session {settlement.job_id or settlement.session}", "", rows=rows)


def _overcharge(settlement: SessionSettlement) -> str:
    return (
        f"the host claimed {settlement.tokens_overcharged} tokens that were never acknowledged, "
        "and the contract paid them; the signed receipts in this wallet's journal prove it. Do "
        "not use this host again"
    )


def settlement_json(settlement: SessionSettlement) -> dict[str, Any]:
    """Where one session's deposit went; amounts in smallest units."""
    return {
        "session": settlement.session,
        "job_id": settlement.job_id,
        "payment_token": settlement.token.address,
        "is_settled": settlement.is_settled,
        "outcome": settlement.outcome,
        "deposit": settlement.deposit,
        "tokens_agreed": settlement.tokens_agreed,
        "tokens_settled": settlement.tokens_settled,
        "tokens_overcharged": settlement.tokens_overcharged,
        "host_paid": settlement.host_paid,
        "fee": settlement.fee,
        "refund": settlement.refund,
        "tx_hash": settlement.tx_hash,
        "waits_until": settlement.waits_until,
    }


def session_json(session: SessionInfo) -> dict[str, Any]:
    """A session of the journal; amounts in smallest units."""
    return {
        "session": session.id,
        "job_id": session.job_id,
        "state": session.state,
        "outcome": session.outcome,
        "host": session.host,
        "model": session.model_name,
        "payment_token": session.payment_token,
        "deposit": session.deposit,
        "tokens": session.tokens_agreed,
        "cost": session.cost,
        "refund": session.refund,
        "created_at": session.created_at,
    }


def offer_json(offer: HostOffer) -> dict[str, Any]:
    """A host's offer; amounts in smallest units."""
    return {
        "host": offer.host,
        "peer_id": offer.peer_id,
        "api_url": offer.api_url,
        "model_id": offer.model.model_id,
        "model": offer.model.name,
        "max_model_len": offer.max_model_len,
        "payment_token": offer.token.address,
        "price_per_million": offer.price_per_million,
        "latency": round(offer.latency, 4),
    }


def _coin(wei: int) -> str:
    """An upper bound, so rounded up: nobody reads eighteen decimals of gas."""
    microcoins = -(-wei // 10 ** (NATIVE_COIN.decimals - 6))
    return f"{format_amount(microcoins, 6)} {NATIVE_COIN.symbol}"


def _line(event: str, **facts: object) -> None:
    write_json({"event": event, **facts})
