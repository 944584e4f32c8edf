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

from fabstir.db.files import OpenToOthers, is_full, read_secret, replace_private
from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import ConfigError, RemoteProtocolError, StorageError, StorageFull
from fabstir.protocol.fields import Fields
from fabstir.s5.portals.answers import decode_base64url, encode_base64url

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
        content = json.dumps({"accounts": entries}, indent=1).encode()
        try:
            replace_private(self._path, content)
        except OSError as exc:
            kind = StorageFull if is_full(exc) else StorageError
            raise kind(
                f"the accounts at portals cannot be kept in {self._path} ({exc.strerror}): free "
                "disk space, or see who owns the folder"
            ) from exc

    def _read(self) -> dict[str, PortalAccount]:
        try:
            raw = read_secret(self._path, _MAX_FILE_BYTES)
        except FileNotFoundError:
            return {}
        except OpenToOthers as exc:
            raise ConfigError(
                f"{self._path} holds keys and can be read by others: chmod 600 {self._path}"
            ) from exc
        except OSError as exc:
            raise ConfigError(
                f"{self._path} cannot be read ({exc.strerror}): see who owns it"
            ) from exc
        try:
            return _parse(raw)
        except (RemoteProtocolError, ValueError) as exc:
            raise ConfigError(
                f"{self._path} is not a file of portal accounts ({exc}): keep it, and restore it "
                "from a copy; new accounts at the portals would not have the files of the old ones"
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
