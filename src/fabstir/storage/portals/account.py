"""Accounts at portals: made and entered by a signed challenge, kept in a file of the caller's.

The file holds, per portal, the 32 random bytes that the account's key is derived from and the
token of the last login; with the identity's portal key they open the account. Neither is logged.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from anyio import to_thread

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
        accounts = self._read() | {account.url: account}
        entries = {
            url: {"seed": encode_base64url(kept.seed), "token": kept.token}
            for url, kept in sorted(accounts.items())
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The temporary file has mode 0600 from its first byte on.
        with tempfile.NamedTemporaryFile(
            "w", dir=self._path.parent, prefix=f".{self._path.name}-", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                json.dump({"accounts": entries}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(self._path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

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
