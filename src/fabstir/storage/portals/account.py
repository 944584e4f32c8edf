"""Accounts at portals: made and entered by a signed challenge, kept in a file of the caller's.

The file holds, per portal, the 32 random bytes that the account's key is derived from and the
token of the last login; with the identity's portal key they open the account. Neither is logged.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from anyio import to_thread

from fabstir.db.files import replace_private
from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import ConfigError, RemoteProtocolError
from fabstir.protocol.fields import Fields
from fabstir.storage.portals.answers import decode_base64url, encode_base64url

ACCOUNT_SEED_BYTES: Final = 32

_MAX_FILE_BYTES = 1 << 20
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class PortalAccount:
    """An account at one portal.

    Attributes:
        url: the portal's origin.
        seed: 32 random bytes; S5.js keeps the same ones in its hidden accounts.json.
        token: of the newest login; "": none yet.
    """

    url: str
    seed: bytes = field(repr=False)
    token: str = field(repr=False, default="")


class AccountFile:
    """The accounts of one identity, in a JSON file of mode 0600 that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        """Two portals that renew their tokens at once would each write what they have read, and
        one of the accounts would be lost."""

    async def load(self, url: str) -> PortalAccount | None:
        """The account at a portal, if there is one.

        Raises:
            ConfigError: the file is no list of accounts.
        """
        return (await self.load_all()).get(url)

    async def load_all(self) -> Mapping[str, PortalAccount]:
        """By the portals' origins. Raises as `load`."""
        return await to_thread.run_sync(self._read)

    async def save(self, account: PortalAccount) -> None:
        """Keep an account durably, instead of what was kept for its portal before."""
        await to_thread.run_sync(self._save, account)

    def _save(self, account: PortalAccount) -> None:
        with self._writing:
            self._replace(self._read() | {account.url: account})

    def _replace(self, accounts: Mapping[str, PortalAccount]) -> None:
        entries = {
            url: {"seed": encode_base64url(kept.seed), "token": kept.token}
            for url, kept in sorted(accounts.items())
        }
        replace_private(self._path, json.dumps({"accounts": entries}, indent=1).encode())

    def _read(self) -> dict[str, PortalAccount]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return _parse(raw)
        except (RemoteProtocolError, ValueError) as exc:
            raise ConfigError(
                f"{self._path} is not a file of portal accounts ({exc}): restore it from a copy, "
                "or move it away and register again"
            ) from exc


def _parse(raw: bytes) -> dict[str, PortalAccount]:
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"it is longer than {_MAX_FILE_BYTES} bytes")
    accounts = Fields.of(parse_json(raw, max_depth=_MAX_DEPTH), "the file").child("accounts")
    found: dict[str, PortalAccount] = {}
    for url in accounts.raw:
        entry = accounts.child(url)
        seed = decode_base64url(entry.text("seed", limit=64), "an account's seed")
        if len(seed) != ACCOUNT_SEED_BYTES:
            raise ValueError(f"account seeds have {ACCOUNT_SEED_BYTES} bytes, not {len(seed)}")
        found[url] = PortalAccount(url, seed, entry.text("token"))
    return found
