"""Signing in where an earlier try was killed, or where the portal has lost the account."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.integration.s5.portals.clients import PATIENCE
from tests.integration.s5.portals.faulty import FaultyPortal
from tests.integration.s5.portals.raw_http import refuse

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import ConfigError, NotFound, PortalRefused
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.portals import AccountFile, PortalAccount, PortalHttp, sign_in

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

IDENTITY = Identity(bytes(range(16)), NATIVE)
SEED = b"\5" * 32


def never(_size: int) -> bytes:
    """Stands for a new account's seed."""
    raise AssertionError("a second account was begun")


@pytest.fixture
def http(faulty: FaultyPortal, http_client: httpx.AsyncClient) -> PortalHttp:
    return PortalHttp(faulty.url, http_client, patience=PATIENCE)


async def test_a_kill_before_the_registration_leaves_its_seed_to_be_used(
    faulty: FaultyPortal, http: PortalHttp, tmp_path: Path
) -> None:
    file = AccountFile(tmp_path / "portals.json")
    await file.save(PortalAccount(faulty.url, SEED))

    session = await sign_in(http, IDENTITY, file, random_bytes=never)

    kept = await file.load(faulty.url)
    assert kept is not None
    assert kept.seed == SEED
    assert kept.token == session.token
    assert len(faulty.accounts) == 1


async def test_a_refused_registration_is_tried_again_with_the_same_seed(
    faulty: FaultyPortal, http: PortalHttp, tmp_path: Path
) -> None:
    file = AccountFile(tmp_path / "portals.json")
    faulty.fail("POST /s5/account/register", refuse(403, b"not today"))

    with pytest.raises(PortalRefused):
        await sign_in(http, IDENTITY, file, random_bytes=lambda size: SEED[:size])
    assert not faulty.accounts
    await sign_in(http, IDENTITY, file, random_bytes=never)

    kept = await file.load(faulty.url)
    assert kept is not None
    assert (kept.seed, len(faulty.accounts)) == (SEED, 1)


async def test_a_portal_that_lost_the_account_is_not_given_another(
    faulty: FaultyPortal, http: PortalHttp, tmp_path: Path
) -> None:
    # What we paid for, and what is pinned there, is in the one that it lost.
    file = AccountFile(tmp_path / "portals.json")
    await sign_in(http, IDENTITY, file, random_bytes=lambda size: SEED[:size])
    faulty.accounts.clear()

    with pytest.raises(NotFound, match="does not know"):
        await sign_in(http, IDENTITY, file, random_bytes=never)

    assert not faulty.accounts
    kept = await file.load(faulty.url)
    assert kept is not None
    assert kept.seed == SEED


async def test_a_file_that_is_no_list_of_accounts_is_left_as_it_is(
    faulty: FaultyPortal, http: PortalHttp, tmp_path: Path
) -> None:
    path = tmp_path / "portals.json"
    for content in (b"{", b" " * (2 << 20), b"[]", b"\xff"):
        path.write_bytes(content)
        path.chmod(0o600)

        with pytest.raises(ConfigError):
            await sign_in(http, IDENTITY, AccountFile(path), random_bytes=never)

        assert path.read_bytes() == content
    assert not faulty.requests
