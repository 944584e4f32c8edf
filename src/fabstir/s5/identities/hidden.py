"""The hidden DB on blobs and a registry: small files that only their owner finds, reads and writes.

And the one file that S5.js keeps there: the seeds of an identity's accounts at portals, so that the
same phrase opens the same accounts on every machine.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fabstir.primitives.cid import Multihash
from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import NotFound, RemoteProtocolError, WriteConflict
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.fields import Fields
from fabstir.s5.formats.account import portal_authority
from fabstir.s5.formats.encryption import NONCE_BYTES, open_mutable, seal_mutable
from fabstir.s5.formats.hidden_db import ACCOUNTS_PATH, hidden_db_keys
from fabstir.s5.formats.limits import MAX_MUTABLE_BYTES
from fabstir.s5.formats.registry import blob_pointer, read_blob_pointer, sign_entry
from fabstir.s5.portals.account import ACCOUNT_SEED_BYTES
from fabstir.s5.portals.answers import decode_base64url, encode_base64url
from fabstir.s5.ports import Blobs, EntryRegistry

_REASON: Final = "hidden DB"
_MAX_JSON_DEPTH: Final = 8
_MAX_TRIES: Final = 4
"""Of a change that somebody else's overtakes each time."""

_ID_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class HiddenFile:
    """What is at a path.

    Attributes:
        data: None: an entry points at a blob that nobody has any more.
        revision: of the registry entry; -1: there is none.
    """

    data: bytes | None = field(repr=False)
    revision: int
    blob: Multihash | None


class HiddenDb:
    """One identity's hidden DB.

    Args:
        root: `Identity.hidden_db_root()`.
        token_bytes: randomness for nonces.
    """

    def __init__(
        self,
        blobs: Blobs,
        registry: EntryRegistry,
        root: bytes,
        crypto: Crypto,
        *,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._blobs = blobs
        self._registry = registry
        self._root = root
        self._crypto = crypto
        self._token_bytes = token_bytes

    async def read(self, path: str) -> HiddenFile:
        """What is at `path` now.

        Raises:
            RemoteProtocolError: what is there was not written with this identity's key.
            PortalError: who may have it does not answer.
        """
        keys = hidden_db_keys(self._root, path, self._crypto)
        entry = await self._registry.get(keys.public_key)
        if entry is None:
            return HiddenFile(None, -1, None)
        blob = read_blob_pointer(entry.data)
        try:
            sealed = await self._blobs.get(blob, max_bytes=MAX_MUTABLE_BYTES)
        except NotFound:
            return HiddenFile(None, entry.revision, blob)
        return HiddenFile(
            open_mutable(sealed, keys.encryption_key, self._crypto), entry.revision, blob
        )

    async def write(self, path: str, data: bytes, *, replaces: HiddenFile) -> HiddenFile:
        """Put `data` in the place of what was read.

        Raises:
            WriteConflict: somebody else wrote meanwhile; nothing of this write is kept.
            StorageError: it cannot be kept.
        """
        keys = hidden_db_keys(self._root, path, self._crypto)
        nonce = self._token_bytes(NONCE_BYTES)
        sealed = seal_mutable(data, keys.encryption_key, nonce, self._crypto)
        blob = (await self._blobs.put(sealed, reason=_REASON)).multihash
        revision = replaces.revision + 1
        entry = sign_entry(keys.write_key, revision, blob_pointer(blob), self._crypto)
        try:
            await self._registry.set(entry)
        except WriteConflict:
            await self._blobs.release([blob])
            raise
        if replaces.blob is not None:
            await self._blobs.release([replaces.blob])
        return HiddenFile(data, revision, blob)


class HiddenAccounts:
    """The accounts at portals that S5.js keeps in the hidden DB's accounts.json.

    What else stands in the file is kept as it is.

    Args:
        now: the time that new accounts are given.
    """

    def __init__(
        self, db: HiddenDb, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._db = db
        self._now = now

    async def find(self, url: str) -> bytes | None:
        """The 32-byte seed of the account at a portal; None: there is none.

        Args:
            url: the portal's origin.

        Raises:
            RemoteProtocolError: the file is no list of accounts.
            NotFound: there is a list, and nobody has it now.
            PortalError: who may have it does not answer.
        """
        file = await self._db.read(ACCOUNTS_PATH)
        if file.data is None and file.blob is not None:
            raise NotFound(
                "nobody has the list of this identity's accounts now, which another machine wrote"
            )
        return self._seed_in(_parse(file), url)

    def _seed_in(self, content: dict[str, Any], url: str) -> bytes | None:
        accounts = Fields.of(content["accounts"], ACCOUNTS_PATH)
        for name in accounts.raw:
            account = accounts.child(name)
            if portal_url(account.text("url", limit=2048)) == portal_url(url):
                seed = decode_base64url(account.text("seed", limit=64), "an account's seed")
                if len(seed) == ACCOUNT_SEED_BYTES:
                    return seed
        return None

    async def remember(self, url: str, seed: bytes) -> None:
        """Add an account, unless it is there.

        Raises:
            RemoteProtocolError: the file is no list of accounts.
            WriteConflict: others changed it again and again.
        """
        for tries_left in range(_MAX_TRIES - 1, -1, -1):
            before = await self._db.read(ACCOUNTS_PATH)
            content = _parse(before)
            if self._seed_in(content, url) == seed:
                return
            content = self._with(content, url, seed)
            data = json.dumps(content, separators=(",", ":")).encode()
            try:
                await self._db.write(ACCOUNTS_PATH, data, replaces=before)
            except WriteConflict:
                if not tries_left:
                    raise
            else:
                return

    def _with(self, content: dict[str, Any], url: str, seed: bytes) -> dict[str, Any]:
        name = f"{portal_authority(url)}:{encode_base64url(seed[:_ID_BYTES])}"
        content["accounts"][name] = {
            "url": portal_url(url),
            "seed": encode_base64url(seed),
            "createdAt": self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        for names in (content["active"], content["uploadOrder"]["default"]):
            if name not in names:
                names.append(name)
        return content


def portal_url(url: str) -> str:
    """A portal's origin as S5.js writes it. Raises RemoteProtocolError: it has no host."""
    try:
        return f"{url.partition('://')[0].lower()}://{portal_authority(url)}"
    except ValueError as exc:
        raise RemoteProtocolError(f"{ACCOUNTS_PATH}: an account's URL has no host") from exc


def _parse(file: HiddenFile) -> dict[str, Any]:
    """The file's content, with every part that S5.js expects."""
    if file.data is None:
        value: object = {}
    else:
        try:
            value = parse_json(file.data, max_depth=_MAX_JSON_DEPTH)
        except ValueError as exc:
            raise RemoteProtocolError(f"{ACCOUNTS_PATH} is not JSON: {exc}") from exc
    content = _part({"content": value}, "content", dict)
    content["accounts"] = _part(content, "accounts", dict)
    content["active"] = _part(content, "active", list)
    content["uploadOrder"] = _part(content, "uploadOrder", dict)
    content["uploadOrder"]["default"] = _part(content["uploadOrder"], "default", list)
    return content


def _part(content: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = content.get(name, kind())
    if not isinstance(value, kind):
        raise RemoteProtocolError(f"{ACCOUNTS_PATH}: {name} is no {kind.__name__}")
    return value
