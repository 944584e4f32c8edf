"""This identity's accounts at portals: which one is used, and when one is made."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError, StorageError
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.identities.hidden import HiddenAccounts
from fabstir.s5.portals import (
    AccountFile,
    OnRequest,
    Portal,
    PortalAccount,
    PortalHttp,
    PortalPool,
    load_session,
    sign_in,
)

_logger = logging.getLogger(__name__)


def account_file(folder: Path) -> AccountFile:
    """The accounts that the node of this folder uses."""
    return AccountFile(folder / "portals.json")


class PortalAccounts:
    """This identity's accounts at portals, in a file of the node's folder.

    Args:
        hidden: the accounts that this identity's machines share. Asked for when it is needed: it
            is read from the portals that these accounts open.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        client: httpx.AsyncClient,
        on_request: OnRequest | None,
        hidden: Callable[[], HiddenAccounts],
    ) -> None:
        self._file = account_file(folder)
        self._identity = identity
        self._client = client
        self._on_request = on_request
        self._hidden = hidden
        self._entering = anyio.Lock()
        """Two that enter a portal at once would make two accounts, and keep one."""

    async def portal(self, url: str, spool_folder: Path) -> Portal:
        """A portal, with the account that is there for it."""
        http = self._http(url)
        session = await load_session(http, self._identity, self._file)
        return Portal(http, NATIVE, session, spool_folder=spool_folder)

    async def enter(self, portal: Portal, *, invite: str | None = None) -> None:
        """Log in at a portal because somebody said so: an account is made if none is found, also
        where this identity's other machines cannot be asked for theirs.

        Raises:
            PortalError: it does not let us.
        """
        async with self._entering:
            with _not_vital("the accounts of this identity's other machines are not read"):
                await self._take_from_elsewhere(portal.url)
            await self._sign_in(portal, invite)
            await self._tell(portal.url)

    async def enter_if_needed(self, portal: Portal, pool: PortalPool) -> None:
        """As `enter`, unless somebody did meanwhile, and only if this identity's machines are known
        to have no account there that is not known here: nobody watches, so a second account, with
        half of the files, would stay unnoticed.

        Args:
            pool: has the portal; it is left alone where it failed a moment ago. The shared accounts
                are read outside of that: the same portal may have to be asked for them.

        Raises:
            PortalError: the portal does not let us.
            StorageError: it cannot be known now.
        """
        async with self._entering:
            if portal.session.token is not None:
                return
            try:
                await self._take_from_elsewhere(portal.url)
            except (StorageError, RemoteProtocolError) as error:
                raise StorageError(
                    f"whether this identity has an account at {portal.url} already cannot be known "
                    f"now, and no second one is made ({error}): this node tries again, or run "
                    f"`fabstir s5 login {portal.url}`, which makes one all the same"
                ) from error
            await pool.guarded(portal, lambda: self._sign_in(portal, None))
            await self._tell(portal.url)

    async def _sign_in(self, portal: Portal, invite: str | None) -> None:
        portal.session = await sign_in(
            portal.http,
            self._identity,
            self._file,
            random_bytes=secrets.token_bytes,
            invite=invite,
        )

    async def _tell(self, url: str) -> None:
        """Let the identity's other machines find the account that is used here."""
        with _not_vital("this identity's other machines are not told of the account"):
            if (account := await self._file.load(url)) is not None:
                await self._hidden().remember(url, account.seed)

    async def _take_from_elsewhere(self, url: str) -> None:
        """Use the account that this identity made elsewhere, where none was entered from here.

        One whose token is not known may never have been made: the seed is kept before the portal
        hears of it, and another machine may have been faster since.
        """
        ours = await self._file.load(url)
        if ours is not None and ours.token:
            return
        seed = await self._hidden().find(url)
        if seed is not None and (ours is None or ours.seed != seed):
            await self._file.save(PortalAccount(url, seed))

    def _http(self, url: str) -> PortalHttp:
        # Nodes that know each other must not ask each other for what neither has, in circles.
        return PortalHttp(url, self._client, on_request=self._on_request, only_stored=True)


@contextmanager
def _not_vital(message: str) -> Generator[None]:
    """Go on without what fails."""
    try:
        yield
    except (StorageError, RemoteProtocolError) as error:
        _logger.warning(message, extra={"reason": str(error)})
