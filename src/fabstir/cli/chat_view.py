"""What `fabstir chat` shows: for people in a terminal, or as JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol

import typer

from fabstir.cli.output import console, print_result, table
from fabstir.crypto import checksum_address
from fabstir.primitives.ids import Address
from fabstir.primitives.units import format_amount
from fabstir.sdk import (
    AnswerEvent,
    Finished,
    HostOffer,
    Quote,
    ReceiptVerified,
    Session,
    Settlement,
    Text,
)
from fabstir.sdk.money import NATIVE

_REASONS = {
    "stop": "",
    "length": "cut off at the longest answer or the context's end",
    "deposit_exhausted": "the deposit is used up: /quit settles",
    "draining": "the host is shutting down",
}
"""Why an answer ended, where its own name does not say it."""

_KEPT_CONTROLS = frozenset("\n\t")


class ChatView(Protocol):
    """Both forms show the same facts."""

    def quote(self, quote: Quote) -> None:
        """Before the deposit."""
        ...

    def opened(self, session: Session) -> None:
        """The deposit is in the chain."""
        ...

    def prompt(self) -> None:
        """The user is to write."""
        ...

    def event(self, event: AnswerEvent) -> None:
        """A piece of an answer."""
        ...

    def answered(self, session: Session) -> None:
        """An answer is over."""
        ...

    def note(self, text: str) -> None:
        """Something to know."""
        ...

    def settled(self, settlement: Settlement) -> None:
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
        print_result(console, table("session", "", rows=rows))

    def opened(self, session: Session) -> None:
        console.print(
            f"Session {session.job_id} is open. /help shows what you can do; Ctrl-C stops an "
            "answer, twice leaves and settles.",
            style="dim",
            highlight=False,
        )

    def prompt(self) -> None:
        self._num_tokens, self._finish_reason = 0, ""  # an answer that failed left some
        if sys.stdin.isatty():
            console.print("\n[bold cyan]you[/] ", end="")
            console.file.flush()

    def event(self, event: AnswerEvent) -> None:
        match event:
            case Text():
                if not self._num_tokens:
                    self._started = time.monotonic()
                self._num_tokens += event.num_tokens
                console.out(printable(event.text), end="", highlight=False)
                console.file.flush()
            case ReceiptVerified():
                self._num_receipts += 1
            case Finished():
                self._finish_reason = event.finish_reason

    def answered(self, session: Session) -> None:
        money = session.token.format
        seconds = time.monotonic() - self._started
        parts = [
            f"{self._num_tokens} tokens",
            f"{self._num_tokens / seconds:.0f}/s" if seconds > 0 else "",
            _REASONS.get(self._finish_reason, self._finish_reason),
            f"{session.tokens} in all cost {money(session.cost)}",
            f"{money(session.deposit_left)} left",
            f"{self._num_receipts} receipts verified",
        ]
        console.print()
        console.print(" · ".join(part for part in parts if part), style="dim", highlight=False)

    def note(self, text: str) -> None:
        console.print(text, style="yellow", markup=False, highlight=False)

    def settled(self, settlement: Settlement) -> None:
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

    def opened(self, session: Session) -> None:
        _line("opened", session=session.row.id, job_id=session.job_id)

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

    def answered(self, session: Session) -> None:
        """The events have said it all."""

    def note(self, text: str) -> None:
        _line("note", text=text)

    def settled(self, settlement: Settlement) -> None:
        _line("settlement", **settlement_json(settlement))


def printable(text: str) -> str:
    """Text of strangers without what would steer the terminal."""
    return "".join(c for c in text if c in _KEPT_CONTROLS or c.isprintable() or ord(c) > 0x9F)


def short_address(address: Address) -> str:
    """Enough to tell accounts apart in a table; --json has all of it."""
    text = checksum_address(address)
    return f"{text[:8]}…{text[-6:]}"


def settlement_table(settlement: Settlement) -> Any:
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


def _overcharge(settlement: Settlement) -> str:
    return (
        f"the host claimed {settlement.tokens_overcharged} tokens that were never acknowledged, "
        "and the contract paid them; the signed receipts in this wallet's journal prove it. Do "
        "not use this host again"
    )


def settlement_json(settlement: Settlement) -> dict[str, Any]:
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
    microcoins = -(-wei // 10 ** (NATIVE.decimals - 6))
    return f"{format_amount(microcoins, 6)} {NATIVE.symbol}"


def _line(event: str, **facts: object) -> None:
    typer.echo(json.dumps({"event": event, **facts}, ensure_ascii=False))
