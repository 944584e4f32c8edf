"""The accounts of this node's portal: who may store here, how much, and by which token.

An account is an ed25519 key. It is made and entered by signing a challenge, as S5's portals do;
what comes out is a token, of which only the hash is kept. The node's owner has a token of his own
(`owner_token`) and no account.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from fabstir.primitives.errors import AccessDenied, RemoteProtocolError, WriteConflict
from fabstir.primitives.ids import Address, Hash32, parse_address
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import is_signed_by, personal_digest
from fabstir.s5.formats.account import (
    ChallengeKind,
    ChallengeResponse,
    challenge_message,
    verify_challenge,
)
from fabstir.s5.identities.challenges import CHALLENGE_SECONDS, Challenges
from fabstir.s5.store import BlobStore
from fabstir.s5.tables.accounts import (
    AccountRow,
    delete_token,
    find_account,
    find_account_by_token,
    find_or_insert_account,
    insert_token,
    list_accounts,
)

OWNER: Final = "owner"
"""Under what the node's owner pins what he uploads through the portal's doors."""

MAX_LABEL_CHARS = 128

MAX_TOKEN_CHARS = 256
"""Longer texts are no token of ours and are not hashed."""

_MAX_PENDING_HOSTS = 1024
"""Hosts between the two steps of their registration; the oldest gives way."""

IsHost = Callable[[Address], Awaitable[bool]]
"""Whether an address is registered on chain as a host."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token stands for.

    Attributes:
        account: None: the node's owner.
    """

    account: AccountRow | None

    @property
    def is_owner(self) -> bool:
        """Whether every right is given."""
        return self.account is None

    @property
    def owner(self) -> str:
        """Under what this caller's blobs are pinned."""
        return OWNER if self.account is None else account_owner(self.account)


def account_owner(account: AccountRow) -> str:
    """Under what an account's blobs are pinned."""
    return f"account:{account.id}"


@dataclass(frozen=True, slots=True)
class Entered:
    """A token, told once and never again, and the account that it opens."""

    token: str = field(repr=False)
    account: AccountRow


class Accounts:
    """Made by `load_accounts`."""

    def __init__(
        self,
        store: BlobStore,
        crypto: Crypto,
        *,
        authorities: Collection[str],
        owner_token: str,
        is_open: bool,
        account_bytes: int,
        is_host: IsHost | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not authorities:
            raise ValueError("a portal has a name: host[:port], as its users write it")
        self._store = store
        self._crypto = crypto
        self._authorities = tuple(authorities)
        self._owner_digest = self._digest(owner_token)
        self._is_host = is_host
        self._clock = clock
        self._challenges = Challenges()
        self._pending_hosts: OrderedDict[bytes, tuple[Address, float]] = OrderedDict()
        self.is_open = is_open
        self.account_bytes = account_bytes

    @property
    def takes_hosts(self) -> bool:
        """Whether hosts may register by their wallet's signature."""
        return self._is_host is not None

    def challenge(self, kind: ChallengeKind, public_key: bytes, *, is_invited: bool) -> bytes:
        """What the key's owner has to sign to register or log in.

        Args:
            is_invited: the node's owner vouches for the newcomer.

        Raises:
            AccessDenied: strangers may not register here.
        """
        if kind is ChallengeKind.REGISTER and not (self.is_open or is_invited):
            raise AccessDenied(
                "this node takes no new accounts: its owner can make one with the owner's token"
            )
        return self._challenges.issue(kind, public_key)

    async def register(
        self, public_key: bytes, answer: ChallengeResponse, *, label: str, is_invited: bool
    ) -> Entered:
        """Make the key's account, or enter it if it is there: who lost the answer asks again.

        Raises:
            AccessDenied: strangers may not register here, or the challenge is not valid.
            RemoteProtocolError: the answer is not what was to be signed.
        """
        if not (self.is_open or is_invited):
            raise AccessDenied("this node takes no new accounts")
        self._redeem(ChallengeKind.REGISTER, public_key, answer)
        return await self._enter_new(public_key, label=label, eth_address=None)

    async def login(self, public_key: bytes, answer: ChallengeResponse, *, label: str) -> Entered:
        """A new token for the key's account.

        Raises:
            AccessDenied: the challenge is not valid, or the key has no account here.
            RemoteProtocolError: the answer is not what was to be signed.
        """
        self._redeem(ChallengeKind.LOGIN, public_key, answer)
        account = await self._store.db.read(lambda db: find_account(db, public_key))
        if account is None:
            raise AccessDenied("this key has no account here: register it first")
        return await self._enter(account, label)

    async def challenge_host(
        self, public_key: bytes, address_text: str, signature: bytes, message: str
    ) -> bytes:
        """The first of a host's two steps: its wallet vouches, the chain knows it.

        Raises:
            AccessDenied: hosts cannot register here, the signature is another's, or the chain
                knows no such host.
            RemoteProtocolError: not an address, or another message.
        """
        if self._is_host is None:
            raise AccessDenied("hosts cannot register by their wallet here")
        try:
            address = parse_address(address_text)
        except ValueError as error:
            raise RemoteProtocolError(f"ethAddress: {error}") from error
        if message != f"Register S5 account for {address_text}":
            raise RemoteProtocolError("the message must be `Register S5 account for <ethAddress>`")
        digest = Hash32("0x" + personal_digest(message.encode(), self._crypto).hex())
        if not is_signed_by(address, signature, digest, self._crypto):
            raise AccessDenied(f"the message is not signed by {address}")
        if not await self._is_host(address):
            raise AccessDenied(f"{address} is not registered as a host on chain")
        self._pending_hosts[public_key] = (address, time.monotonic() + CHALLENGE_SECONDS)
        self._pending_hosts.move_to_end(public_key)
        if len(self._pending_hosts) > _MAX_PENDING_HOSTS:
            self._pending_hosts.popitem(last=False)
        return self._challenges.issue(ChallengeKind.REGISTER, public_key)

    async def register_host(
        self, public_key: bytes, answer: ChallengeResponse, *, label: str
    ) -> Entered:
        """The second step: the account's key answers.

        Raises:
            AccessDenied: the first step was not made, or the challenge is not valid.
            RemoteProtocolError: the answer is not what was to be signed.
            WriteConflict: the address has an account already, of another key.
        """
        address, deadline = self._pending_hosts.get(public_key, (None, 0.0))
        if address is None or deadline <= time.monotonic():
            raise AccessDenied("ask for a challenge at register-host first")
        self._redeem(ChallengeKind.REGISTER, public_key, answer)
        del self._pending_hosts[public_key]
        return await self._enter_new(public_key, label=label, eth_address=address)

    async def identify(self, token: str) -> Caller | None:
        """Whose token this is; None: nobody's."""
        if not token or len(token) > MAX_TOKEN_CHARS:
            return None
        digest = self._digest(token)
        if hmac.compare_digest(digest, self._owner_digest):
            return Caller(None)
        account = await self._store.db.read(lambda db: find_account_by_token(db, digest))
        return None if account is None else Caller(account)

    async def revoke(self, token: str) -> bool:
        """Log out: the token opens nothing any more. False: it was no account's."""
        digest = self._digest(token)
        return await self._store.db.write(lambda db: delete_token(db, digest), durable=True)

    def quota(self, caller: Caller) -> int | None:
        """The most bytes that a caller may keep; None: what the node holds."""
        return None if caller.is_owner else self.account_bytes

    async def enforce_quotas(self) -> None:
        """Give every account its quota: the setting may have changed, and a kill may have come
        between making an account and limiting it."""
        # Only those that lack it: one after the other, 100,000 of them took minutes of a start.
        limits = {owner: usage.max_bytes async for owner, usage in self._store.owners()}
        names = map(account_owner, await self._store.db.read(list_accounts))
        lacking = [name for name in names if limits.get(name) != self.account_bytes]
        await self._store.set_quotas(lacking, self.account_bytes)

    def _redeem(self, kind: ChallengeKind, public_key: bytes, answer: ChallengeResponse) -> None:
        challenge = answer.response[1:33]
        self._challenges.check(kind, public_key, challenge)
        # The node has several names (localhost, 127.0.0.1, its public one), but only its own: a
        # portal in between that passes our challenge on gets an answer to its own name.
        authority = next(
            (
                name
                for name in self._authorities
                if challenge_message(kind, challenge, name, self._crypto) == answer.response
            ),
            self._authorities[0],
        )
        verify_challenge(public_key, answer, kind, challenge, authority, self._crypto)
        self._challenges.redeem(challenge)

    async def _enter_new(
        self, public_key: bytes, *, label: str, eth_address: Address | None
    ) -> Entered:
        now = int(self._clock() * 1000)
        account = await self._store.db.write(
            lambda db: find_or_insert_account(
                db, public_key, label=label, eth_address=eth_address, now=now
            ),
            durable=True,
        )
        if account is None:
            raise WriteConflict(
                f"the account of {eth_address}", "the address has one, entered by another key"
            )
        await self._store.set_quota(account_owner(account), self.account_bytes)
        return await self._enter(account, label)

    async def _enter(self, account: AccountRow, label: str) -> Entered:
        token = secrets.token_urlsafe(32)
        digest = self._digest(token)
        now = int(self._clock() * 1000)
        await self._store.db.write(
            lambda db: insert_token(db, account.id, digest, label=label, now=now), durable=True
        )
        return Entered(token, account)

    def _digest(self, token: str) -> bytes:
        return self._crypto.blake3(token.encode())


async def load_accounts(
    store: BlobStore,
    crypto: Crypto,
    *,
    authorities: Collection[str],
    owner_token: str,
    is_open: bool,
    account_bytes: int,
    is_host: IsHost | None = None,
    clock: Callable[[], float] = time.time,
) -> Accounts:
    """The accounts of a store, each with its quota.

    Args:
        authorities: every `host[:port]` by which this node is reached, never taken from a request:
            see `_redeem`.
        is_open: whether strangers may register.
        account_bytes: the most that one account may keep.
        is_host: asks the chain; None: hosts cannot register by their wallet.
    """
    accounts = Accounts(
        store,
        crypto,
        authorities=authorities,
        owner_token=owner_token,
        is_open=is_open,
        account_bytes=account_bytes,
        is_host=is_host,
        clock=clock,
    )
    await accounts.enforce_quotas()
    return accounts
