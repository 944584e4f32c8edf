"""The renter's commands: chat, hosts, balance, sessions."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import anyio.to_thread
import typer

from fabstir.cli.chat import Chat
from fabstir.cli.chat_view import (
    ChatView,
    JsonView,
    TerminalView,
    offer_json,
    session_json,
    settlement_json,
    settlement_table,
    short_address,
)
from fabstir.cli.context import invocation, run_async
from fabstir.cli.lines import LineReader
from fabstir.cli.output import ask_yes, note, paragraphs, show, table, together
from fabstir.config import Settings
from fabstir.crypto import checksum_address
from fabstir.sdk import ConfigError, NoHostFound, SamplingParams, open_holdings

if TYPE_CHECKING:
    from fabstir.sdk import (
        Address,
        AsyncClient,
        AsyncSession,
        Holdings,
        HostOffer,
        PaymentToken,
        RecoveredConversation,
        SessionInfo,
        SessionSettlement,
        WalletBalance,
        Wei,
    )

T = TypeVar("T")

app = typer.Typer()
sessions = typer.Typer(help="List, close or recover paid sessions.", no_args_is_help=True)
app.add_typer(sessions, name="sessions")

ModelOption = Annotated[
    str | None, typer.Option("--model", help="Its id, repo:file or file name; default: the only.")
]
TokenOption = Annotated[str, typer.Option("--token", help="Pay in eth or usdc.")]
SessionArgument = Annotated[str, typer.Argument(help="The session's number or id.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What the user asks of a chat; amounts as text, in the payment token."""

    model: str | None
    token: str
    deposit: str | None
    max_price: str | None
    max_tokens: int
    system: str
    is_confirmed: bool


@app.command("chat")
def chat(
    ctx: typer.Context,
    *,
    model: ModelOption = None,
    deposit: Annotated[
        str | None, typer.Option(help="What to lock, such as 0.001; the rest comes back.")
    ] = None,
    pay_in: TokenOption = "eth",
    max_price: Annotated[
        str | None, typer.Option(help="The most to pay per million tokens, such as 0.5.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1024,
    system: Annotated[str, typer.Option(help="A system message before the conversation.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Lock the deposit without asking.")] = False,
) -> None:
    """Talk to a model on somebody's machine; every receipt is checked, the rest comes back."""
    options = ChatOptions(
        model=model,
        token=pay_in,
        deposit=deposit,
        max_price=max_price,
        max_tokens=max_tokens,
        system=system,
        is_confirmed=yes,
    )
    view: ChatView = JsonView() if invocation(ctx).as_json else TerminalView()
    _with_client(ctx, lambda client, settings: _chat(client, settings, options, view))


async def _chat(
    client: AsyncClient, settings: Settings, options: ChatOptions, view: ChatView
) -> None:
    token = client.token(options.token)
    view.note("looking for hosts")
    offers = await client.find_hosts(options.model, payment_token=options.token)
    offer = _affordable(offers, options.max_price)
    deposit = _deposit(settings, token, options.deposit)
    view.quote(await client.quote(offer, deposit))
    if not options.is_confirmed:
        await _confirm(token.format(deposit))
    sampling = SamplingParams(max_tokens=options.max_tokens)
    async with client.open_session(offer, deposit=deposit) as session:
        await _talk(session, view, Chat(session, view, sampling, options.system))


async def _talk(session: AsyncSession, view: ChatView, conversation: Chat) -> None:
    """Whatever ends the conversation, a view that breaks included: the money comes home."""
    try:
        try:
            view.opened(session)
            await conversation.run(LineReader())
        finally:
            view.note("\nsettling: the host puts its last claim on chain, the rest comes back")
    finally:
        view.settled(await session.close())


def _affordable(offers: tuple[HostOffer, ...], max_price: str | None) -> HostOffer:
    """The best offer within the user's limit."""
    if max_price is None:
        return offers[0]
    token = offers[0].token
    limit = _amount(max_price, token, "--max-price")
    for offer in offers:
        if offer.price_per_million <= limit:
            return offer
    cheapest = min(offer.price_per_million for offer in offers)
    raise NoHostFound(
        f"the cheapest of {len(offers)} hosts asks {token.format(cheapest)} per million tokens, "
        f"more than {token.format(limit)}: raise --max-price"
    )


def _deposit(settings: Settings, token: PaymentToken, text: str | None) -> Wei:
    if text is not None:
        return _amount(text, token, "--deposit")
    renter = settings.renter
    return renter.deposit_usdc if token.name == "usdc" else renter.deposit_native


def _amount(text: str, token: PaymentToken, option: str) -> Wei:
    try:
        return token.parse(text)
    except ValueError as exc:
        raise ConfigError(f"{option}: {exc}") from exc


async def _confirm(deposit: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(f"locking {deposit} needs a yes: add --yes, or run it in a terminal")
    if not await anyio.to_thread.run_sync(lambda: ask_yes(f"Lock {deposit}?", default=True)):
        raise typer.Exit(1)


@app.command("hosts")
def hosts(ctx: typer.Context, *, model: ModelOption = None, pay_in: TokenOption = "eth") -> None:
    """List who serves a model now, the best first: price, measured latency, context."""

    async def find(client: AsyncClient, _: Settings) -> tuple[HostOffer, ...]:
        return await client.find_hosts(model, payment_token=pay_in)

    offers = _with_client(ctx, find)
    rows = [
        (
            short_address(offer.host),
            offer.token.format(offer.price_per_million),
            f"{offer.latency * 1000:.0f} ms",
            str(offer.max_model_len),
            offer.api_url,
        )
        for offer in offers
    ]
    columns = ("host", "price per million", "latency", "context", "url")
    show(ctx, [offer_json(offer) for offer in offers], lambda: table(*columns, rows=rows))


@app.command("balance")
def balance(ctx: typer.Context) -> None:
    """Show what the wallet holds, what sessions have locked, and what can be withdrawn."""
    address, balances = _with_holdings(ctx, _balances)
    data = {
        "address": address,
        "balances": [
            {
                "payment_token": b.token.address,
                "symbol": b.token.symbol,
                "decimals": b.token.decimals,
                "wallet": b.wallet,
                "locked": b.locked,
                "in_contract": b.in_contract,
            }
            for b in balances
        ],
    }
    rows = [
        [b.token.symbol, *(b.token.format(a) for a in (b.wallet, b.locked, b.in_contract))]
        for b in balances
    ]
    columns = (checksum_address(address), "wallet", "locked in sessions", "in the contract")
    show(ctx, data, lambda: table(*columns, rows=rows))


async def _balances(holdings: Holdings) -> tuple[Address, tuple[WalletBalance, ...]]:
    return holdings.wallet, await holdings.balances()


@sessions.command("list")
def list_sessions(
    ctx: typer.Context,
    *,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also those that are settled or never began.")
    ] = False,
) -> None:
    """List sessions, oldest first: what is locked where, and what was agreed to."""
    found, tokens = _with_holdings(ctx, _sessions)
    shown = [session for session in found if show_all or not session.is_over]
    by_address = {token.address: token for token in tokens}

    def money(session: SessionInfo, amount: int | None) -> str:
        token = by_address.get(session.payment_token)
        if amount is None:
            return ""
        return token.format(amount) if token else f"{amount} of {session.payment_token}"

    rows = [
        (
            str(session.job_id or session.id),
            session.outcome or session.state,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(session.created_at)),
            short_address(session.host),
            money(session, session.deposit),
            str(session.tokens_agreed),
            money(session, session.cost),
            money(session, session.refund),
        )
        for session in shown
    ]
    columns = ("session", "state", "opened", "host", "deposit", "tokens", "cost", "refund")
    show(ctx, [session_json(session) for session in shown], lambda: table(*columns, rows=rows))


async def _sessions(holdings: Holdings) -> tuple[list[SessionInfo], tuple[PaymentToken, ...]]:
    return await holdings.sessions(), holdings.tokens


@sessions.command("close")
def close_session(
    ctx: typer.Context,
    session: SessionArgument,
    *,
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Do not wait for the host to claim what was acknowledged: it loses that."
        ),
    ] = False,
) -> None:
    """Close a session and get the rest of its deposit back."""

    async def close(client: AsyncClient, _: Settings) -> SessionSettlement:
        return await client.close_session(session, now=now)

    _show_settlements(ctx, [_with_client(ctx, close)])


@sessions.command("recover")
def recover_sessions(
    ctx: typer.Context,
    *,
    conversation: Annotated[
        str | None,
        typer.Option(help="Instead: show what the host of this session published, decrypted."),
    ] = None,
) -> None:
    """Look at every unfinished session on chain now, and bring home what can come."""
    if conversation is not None:
        _show_conversation(ctx, conversation)
        return

    async def recover(client: AsyncClient, _: Settings) -> list[SessionSettlement]:
        return await client.recover()

    _show_settlements(ctx, _with_client(ctx, recover))


def _show_conversation(ctx: typer.Context, session: str) -> None:
    """What was said, as far as the host published it; what is lost is said on standard error."""

    async def read(client: AsyncClient, _: Settings) -> RecoveredConversation:
        return await client.conversation(session)

    found = _with_client(ctx, read)
    said = [f"{m.message.role}: {m.message.text}" for m in found.messages]
    for part in found.missing:
        note(f"tokens {part.start_token} to {part.end_token} are missing: {part.reason}")
    data = {
        "job_id": found.job_id,
        "messages": [message.to_json() for message in found.messages],
        "num_checkpoints": found.num_checkpoints,
        "missing": [asdict(part) for part in found.missing],
    }
    show(ctx, data, lambda: paragraphs(*said) if said else "the host published no messages")


def _show_settlements(ctx: typer.Context, settlements: list[SessionSettlement]) -> None:
    data = [settlement_json(settlement) for settlement in settlements]
    tables = [settlement_table(settlement) for settlement in settlements]
    show(ctx, data, lambda: together(*tables) if tables else "no session is unfinished")


def _with_client(ctx: typer.Context, action: Callable[[AsyncClient, Settings], Awaitable[T]]) -> T:
    from fabstir.sdk import open_async_client  # loads libp2p, which who only looks needs not

    settings = invocation(ctx).settings()

    async def main() -> T:
        async with open_async_client(settings) as client:
            return await action(client, settings)

    return run_async(main)


def _with_holdings(ctx: typer.Context, action: Callable[[Holdings], Awaitable[T]]) -> T:
    """Only look: a chat of the same wallet may be running."""
    settings = invocation(ctx).settings()

    async def main() -> T:
        async with open_holdings(settings) as holdings:
            return await action(holdings)

    return run_async(main)
