"""The client that an app uses: find hosts, open and close sessions, for one wallet."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fabstir.chain.rpc import Chain
from fabstir.config import Settings
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.errors import ConfigError, InsufficientFunds, LocalProtocolError
from fabstir.primitives.units import TokenCount, Wei, tokens_for
from fabstir.protocol.exchange.verification import head_after
from fabstir.sdk.discovery import FIND_TIMEOUT, Discovery
from fabstir.sdk.drafts import draft_session, spending_cap
from fabstir.sdk.holdings import Holdings, WalletBalance
from fabstir.sdk.money import NATIVE_COIN, PaymentToken, SessionSettlement, read_token
from fabstir.sdk.offers import HostOffer, Model, Quote
from fabstir.sdk.recovered import RecoveredConversation
from fabstir.sdk.session import AsyncSession, SessionServices
from fabstir.sdk.session_info import SessionInfo
from fabstir.telemetry.background import to_its_end


class AsyncClient:
    """Finds hosts, opens and closes sessions, for one wallet. Made by `open_async_client`.

    Attributes:
        wallet: the account that pays.
        tokens: the payment tokens it knows: the chain's coin and USDC.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        chain: Chain,
        discovery: Discovery,
        services: SessionServices,
        holdings: Holdings,
    ) -> None:
        self._holdings = holdings
        self.wallet = holdings.wallet
        self.tokens = holdings.tokens
        self._settings = settings
        self._chain = chain
        self._discovery = discovery
        self._services = services
        self._journal = services.journal
        self._rail = services.rail

    # -- the market ---------------------------------------------------------------------------

    def token(self, name: str) -> PaymentToken:
        """A payment token by name, symbol or address. Raises ConfigError, LocalProtocolError."""
        _require_text("payment_token", name)
        for token in self.tokens:
            if name.lower() in {token.name, token.symbol.lower(), token.address}:
                return token
        known = ", ".join(token.name for token in self.tokens)
        raise ConfigError(f"{name!r} is not a payment token of this chain: choose one of {known}")

    async def models(self) -> list[Model]:
        """Every model for which sessions can be opened."""
        return await self._discovery.models()

    async def find_hosts(
        self,
        model: str | None = None,
        *,
        payment_token: str = NATIVE_COIN.name,
        timeout: float = FIND_TIMEOUT,
    ) -> tuple[HostOffer, ...]:
        """Hosts that can serve a model now, the best first.

        Args:
            model: its id, "repo:file", or file name; None if only one is approved.
            payment_token: by name, symbol or address.

        Raises:
            LocalProtocolError: an argument is of the wrong type.
            ConfigError: the chain has no such payment token.
            ModelMissing: no such model is approved; the text lists all.
            NoHostFound: says why each candidate was dropped.
        """
        token = self.token(payment_token)
        if model is not None:
            _require_text("model", model)
        resolved = await self._discovery.resolve_model(model)
        return await self._discovery.find(resolved, token, timeout=timeout)

    async def quote(self, offer: HostOffer, deposit: Wei) -> Quote:
        """What opening a session with this deposit would mean; nothing is sent.

        Raises:
            LocalProtocolError: the deposit is not an int.
            ConfigError: it pays for no token.
            InsufficientFunds: the wallet does not have the deposit and the gas of opening.
            TransactionReverted: the contract would not take it, for example as too small.
        """
        draft = self._draft(offer, deposit)
        fee = (await self._chain.fees()).max_fee_per_gas
        await self._require_funds(offer.token, deposit, Wei(self._rail.max_gas_to_open * fee))
        gas_to_open = Wei(await self._rail.gas_to_open(draft) * fee)
        return Quote(
            offer=offer,
            deposit=deposit,
            max_tokens=tokens_for(deposit, offer.price_per_token),
            gas_to_open=gas_to_open,
            gas_to_close=Wei(self._rail.gas_to_end * fee),
        )

    # -- sessions -----------------------------------------------------------------------------

    @asynccontextmanager
    async def open_session(
        self,
        offer: HostOffer,
        *,
        deposit: Wei,
        proof_window: int | None = None,
        max_duration: int | None = None,
        proof_interval: TokenCount | None = None,
    ) -> AsyncGenerator[AsyncSession]:
        """Lock a deposit and use the session for the length of the block.

        Leaving the block drops the connection. A session that was not closed stays open for a
        while (`resume_session`), then it is closed and its rest comes home by itself.

        Args:
            deposit: in the offer's payment token.
            proof_window: seconds that the host may take between claims; default from settings.
            max_duration: seconds after which the session ends at the latest.
            proof_interval: tokens between the host's claims.

        Raises:
            LocalProtocolError: the deposit is not an int; nothing is locked.
            SpendingCapReached, InsufficientFunds, TransactionReverted: nothing is locked.
            TransactionStuck, RpcUnavailable: what was sent is followed and brought home.
        """
        row = self._draft(offer, deposit, proof_window, max_duration, proof_interval)
        with self._rail.using(row):
            await self._journal.begin(
                row, spending_cap(self._settings.renter, offer.token), offer.token
            )
            row = await self._rail.open(row)
            async with self._session(row, offer.token, offer.addresses) as session:
                yield session

    @asynccontextmanager
    async def resume_session(self, session: str) -> AsyncGenerator[AsyncSession]:
        """Go on with a session of the journal that is still open.

        Args:
            session: its id or its number.

        Raises:
            ConfigError: there is no such session, or it is over.
        """
        row = await self._find(session)
        if row.state is not RenterState.OPEN:
            raise ConfigError(f"session {session} is {row.state.value}: open another one")
        with self._rail.using(row):
            async with self._session(row, await self._token_of(row)) as resumed:
                yield resumed

    async def sessions(self) -> list[SessionInfo]:
        """Every session of this wallet in the journal, oldest first."""
        return await self._holdings.sessions()

    async def close_session(self, session: str, *, now: bool = False) -> SessionSettlement:
        """Close a session of the journal, asking its host if it answers.

        Args:
            session: its id or its number.
            now: settle at once, even if the host has not claimed all that was acknowledged.

        Raises:
            ConfigError: there is no such session.
        """
        row = await self._find(session)
        token = await self._token_of(row)
        with self._rail.using(row):
            if row.state is RenterState.OPEN and not now:
                async with self._session(row, token) as open_session:
                    return await open_session.close()
            if row.state is RenterState.OPEN:
                row = await self._journal.update(row, state=RenterState.CLOSING)
            row = await self._rail.end(row, None, now=now)
            return await self._rail.settlement(row, token)

    async def recover(self) -> list[SessionSettlement]:
        """Look at every unfinished session now; returns where each one's money is."""
        unfinished = {row.id for row in await self._journal.sessions(unfinished_only=True)}
        await self._rail.look_at_all()
        rows = [row for row in await self._journal.sessions() if row.id in unfinished]
        return [await self._rail.settlement(row, await self._token_of(row)) for row in rows]

    async def conversation(self, session: str) -> RecoveredConversation:
        """What a session's host published of the conversation, opened with its recovery key.

        It is what was said until the host's last claim.

        Args:
            session: its id or its number.

        Raises:
            ConfigError: the journal knows no such session, so its key is not here.
            NotFound: nothing was claimed for it.
        """
        return await self._rail.conversation(await self._find(session))

    async def balances(self) -> tuple[WalletBalance, ...]:
        """What the wallet has, by payment token."""
        return await self._holdings.balances()

    # -- inside -------------------------------------------------------------------------------

    async def _require_funds(self, token: PaymentToken, deposit: Wei, gas: Wei) -> None:
        """Raises InsufficientFunds: the wallet has not the deposit, or not what opening costs."""
        needs = {token: deposit}
        needs[NATIVE_COIN] = Wei(needs.get(NATIVE_COIN, 0) + gas)
        for each, needed in needs.items():
            held = (await self._holdings.balance(each)).wallet
            if held < needed:
                raise InsufficientFunds(
                    self.wallet, needed, held, each.symbol, decimals=each.decimals
                )

    def _draft(
        self,
        offer: HostOffer,
        deposit: Wei,
        proof_window: int | None = None,
        max_duration: int | None = None,
        proof_interval: TokenCount | None = None,
    ) -> RenterSession:
        return draft_session(
            offer,
            deposit,
            chain_id=self._chain.chain_id,
            contract=self._rail.contract,
            depositor=self.wallet,
            settings=self._settings.renter,
            proof_window=proof_window,
            max_duration=max_duration,
            proof_interval=proof_interval,
            random=self._services.random,
            now=self._services.clock(),
        )

    @asynccontextmanager
    async def _session(
        self, row: RenterSession, token: PaymentToken, addresses: Sequence[str] = ()
    ) -> AsyncGenerator[AsyncSession]:
        async with AsyncExitStack() as stack:
            last = await self._journal.last_acknowledgement(row)
            session = AsyncSession(
                row, token, self._services, stack, head_after(last), addresses or (row.api_url,)
            )
            try:
                yield session
            finally:
                await to_its_end(session.leave())

    async def _find(self, session: str) -> RenterSession:
        rows = await self._journal.sessions()
        for row in rows:
            if session in {row.id, str(row.job_id)}:
                return row
        raise ConfigError(
            f"the journal knows no session {session!r} of {self.wallet}: "
            "`fabstir sessions list` shows all"
        )

    async def _token_of(self, row: RenterSession) -> PaymentToken:
        known = {token.address: token for token in self.tokens}
        return known.get(row.payment_token) or await read_token(self._chain, row.payment_token)


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise LocalProtocolError(f"{name} must be a text, not {value!r}")
