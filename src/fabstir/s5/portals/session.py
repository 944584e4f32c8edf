"""A logged-in session at a portal: its token, renewed by a signed challenge when refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from fabstir.primitives.errors import ConfigError, NotFound, PortalRefused
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.account import ChallengeKind, sign_challenge
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.portals.account import ACCOUNT_SEED_BYTES, AccountFile, PortalAccount
from fabstir.s5.portals.answers import encode_base64url, parse_challenge, parse_token
from fabstir.s5.portals.http import PortalHttp

T = TypeVar("T")

OnToken = Callable[[str], Awaitable[None]]


class PortalSession:
    """The account in whose name requests are made.

    Attributes:
        token: None: nobody's.
    """

    def __init__(
        self,
        http: PortalHttp,
        crypto: Crypto,
        *,
        token: str | None = None,
        account_key: bytes | None = None,
        label: str = "fabstir",
        on_token: OnToken | None = None,
    ) -> None:
        """
        Args:
            account_key: the account's ed25519 seed, `Identity.portal_account_key(...)`; with it an
                expired token is replaced by itself.
            label: what the portal's list of tokens calls ours.
            on_token: is told every new token, before it is used.
        """
        self.token = token or None
        self._http = http
        self._crypto = crypto
        self._account_key = account_key
        self._label = label
        self._on_token = on_token
        self._entering = anyio.Lock()

    async def register(self, *, invite: str | None = None) -> str:
        """Make an account, and use it from now on.

        Args:
            invite: a token of the portal's operator, where registration is not open.

        Returns:
            The account's token.

        Raises:
            PortalRefused: the key has an account, or registration is closed.
            PortalError: it does not answer, or not with a challenge and a token.
        """
        return await self._enter(ChallengeKind.REGISTER, invite)

    async def login(self) -> str:
        """Get a new token for an account that is there, and use it. As `register`."""
        return await self._enter(ChallengeKind.LOGIN, None)

    async def run(self, attempt: Callable[[str | None], Awaitable[T]]) -> T:
        """Do something with the token; with a new one if the portal knows this one no more."""
        token = self.token
        try:
            return await attempt(token)
        except PortalRefused as exc:
            if exc.status != 401 or self._account_key is None:
                raise
        async with self._entering:
            if self.token == token:  # else somebody else got a new one meanwhile
                await self.login()
        return await attempt(self.token)

    async def _enter(self, kind: ChallengeKind, invite: str | None) -> str:
        if self._account_key is None:
            raise ConfigError(f"there is no account for {self._http.url}: log in with an identity")
        operation = kind.name.lower()
        path = f"/s5/account/{operation}"
        public_key = encode_multikey(self._crypto.ed25519_public_key(self._account_key))
        params = {"pubKey": encode_base64url(public_key)}
        answer = await self._http.ask("GET", path, operation=operation, token=invite, params=params)
        with self._http.believing():
            challenge = parse_challenge(answer.body)
        signed = sign_challenge(
            self._account_key, kind, challenge, self._http.authority, self._crypto
        )
        body = params | {
            "response": encode_base64url(signed.response),
            "signature": encode_base64url(signed.signature),
            "label": self._label,
        }
        answer = await self._http.ask(
            "POST",
            path,
            operation=operation,
            accept=frozenset({200, 201, 204}),
            token=invite,
            headers={"Content-Type": "application/json"},
            content=json.dumps(body).encode(),
        )
        with self._http.believing():
            token = parse_token(answer.headers.get_list("Set-Cookie"), answer.body)
        if self._on_token is not None:
            await self._on_token(token)
        self.token = token
        return token


async def load_session(
    http: PortalHttp, identity: Identity, file: AccountFile, *, label: str = "fabstir"
) -> PortalSession:
    """The account that the file has for a portal, whose token is renewed by itself; or nobody's.

    Raises:
        ConfigError: the file is no list of accounts.
    """
    account = await file.load(http.url)
    if account is None:
        return PortalSession(http, identity.crypto, label=label)
    return _session_of(http, identity, file, account, label)


async def sign_in(
    http: PortalHttp,
    identity: Identity,
    file: AccountFile,
    *,
    random_bytes: Callable[[int], bytes],
    label: str = "fabstir",
    invite: str | None = None,
) -> PortalSession:
    """Log in at a portal, with an account that is made if there is none yet.

    The new account's seed is in the file before the portal hears of its key: so a crash leaves no
    account behind that nobody can open.

    Raises:
        PortalRefused: it lets nobody register, or not without an invite.
        PortalRefused, NotFound: it no longer knows the account that we had there; what is pinned
            in that one would not be found in another.
        PortalError: it does not answer, or lies.
        ConfigError: the file is no list of accounts.
    """
    account = await file.load(http.url)
    is_new = account is None
    if account is None:
        account = PortalAccount(http.url, random_bytes(ACCOUNT_SEED_BYTES))
        await file.save(account)
    session = _session_of(http, identity, file, account, label)
    if not is_new:
        try:
            await session.login()
        except (PortalRefused, NotFound):  # portals say either of a key that they do not know
            if account.token:
                raise
        else:
            return session
    await session.register(invite=invite)
    return session


def _session_of(
    http: PortalHttp, identity: Identity, file: AccountFile, account: PortalAccount, label: str
) -> PortalSession:
    async def keep(token: str) -> None:
        await file.save(PortalAccount(account.url, account.seed, token))

    return PortalSession(
        http,
        identity.crypto,
        token=account.token,
        account_key=identity.portal_account_key(account.seed),
        label=label,
        on_token=keep,
    )
