"""A conversation read back from what the host published with its claims."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import anyio
import httpx
import pytest
from tests.integration.s5.transfer.server import Conduct, Sample, open_server
from tests.integration.sdk.conftest import chain_settings, make_home
from tests.integration.sdk.test_cli_renter import run_json
from tests.integration.sdk.waiting import blocks_come

from fabstir.chain.devnet import Devnet
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.db import open_journal_reader
from fabstir.db.renter import RenterSession, load_session
from fabstir.node.build import Host
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import NotFound
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import Wei
from fabstir.protocol.checkpoint import index_path
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.rails.session_job.checkpoint_files import CheckpointFiles
from fabstir.s5.portals import open_client as open_portal_client
from fabstir.sdk import AsyncClient, RecoveredConversation, open_async_client
from fabstir.sdk.session_job.checkpoints import CheckpointReader
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

QUESTION = Message("user", "Write a long story about a lighthouse.")
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Told:
    """A session that was claimed for, and what was said in it."""

    settings: Settings
    row: RenterSession
    job_id: JobId
    messages: list[Message]
    found: RecoveredConversation


@pytest.fixture(scope="module")
async def told(devnet: Devnet, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Told:
    bootstrap = {"p2p.bootstrap": host.p2p.addresses[0]}
    settings = await make_home(
        tmp_path_factory.mktemp("told") / "renter",
        devnet.accounts[2],
        {**chain_settings(devnet), **bootstrap},
    )
    sampling = SamplingParams(max_tokens=110)
    async with open_async_client(settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=Wei(10**15)) as session:
            async with session.chat([QUESTION], sampling=sampling) as answer:
                text = await answer.complete()
            async with blocks_come(devnet.chain):
                await session.close()
        found = await client.conversation(session.id)
    async with open_journal_reader(settings, "renter") as journal:
        row = await journal.read(lambda c: load_session(c, session.id))
    assert row is not None
    return Told(settings, row, session.job_id, [QUESTION, Message("assistant", text)], found)


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    async with open_portal_client(Reach(allow_private=True)) as client:
        yield client


def said(found: RecoveredConversation) -> list[Message]:
    return [message.message for message in found.messages]


def reader(devnet: Devnet, http: httpx.AsyncClient, portals: Sequence[str]) -> CheckpointReader:
    return CheckpointReader(
        chain=devnet.chain,
        marketplace=devnet.contracts.marketplace,
        client=http,
        portals=portals,
        crypto=NATIVE,
    )


async def published_delta(host: Host, job_id: JobId) -> Sample:
    (claim,) = await host.work.rail.settler.ledger.claims(job_id)
    blob = BlobId.decode(claim.delta_cid)
    return Sample.of(
        await host.work.rail.checkpoints.blobs.get(blob.multihash, max_bytes=blob.size)
    )


async def test_it_is_read_from_the_host(told: Told) -> None:
    assert said(told.found) == told.messages
    assert (told.found.num_checkpoints, told.found.missing) == (1, ())


async def test_the_command_shows_it(told: Told) -> None:
    arguments = ("sessions", "recover", "--conversation", str(told.job_id))

    shown = await run_json(told.settings, *arguments)

    assert [m["content"] for m in shown["messages"]] == [m.content for m in told.messages]
    assert (shown["num_checkpoints"], shown["missing"]) == (1, [])


async def test_the_index_lies_in_the_hosts_file_system(told: Told, host: Host) -> None:
    path = index_path(host.market.signer.address, told.job_id)

    with anyio.fail_after(30):
        while not await host.s5.parts.files.exists(path):
            await anyio.sleep(0.05)

    stored = await host.s5.parts.files.get(path, 1 << 20)
    assert stored == await host.work.rail.checkpoints.index(told.job_id)
    async with httpx.AsyncClient(trust_env=False) as web:
        assert (await web.get(f"{host.api_url}/v1/checkpoints/{told.job_id}")).content == stored


async def test_a_lost_index_is_written_again_when_the_host_starts(told: Told, host: Host) -> None:
    files = host.s5.parts.files
    path = index_path(host.market.signer.address, told.job_id)
    with anyio.fail_after(30):
        while not await files.exists(path):
            await anyio.sleep(0.05)
    await files.delete(path)
    again = CheckpointFiles(host.work.rail.checkpoints, files)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again.run)
        with anyio.fail_after(30):
            while not await files.exists(path):
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()

    assert await files.get(path, 1 << 20) == await host.work.rail.checkpoints.index(told.job_id)


async def test_without_the_host_the_chain_and_a_portal_have_it(
    told: Told, host: Host, devnet: Devnet, http: httpx.AsyncClient
) -> None:
    delta = await published_delta(host, told.job_id)
    lie = Conduct(wrong_groups=frozenset({0}))
    async with open_server(delta, lie) as liar, open_server(delta) as portal:
        gone = dataclasses.replace(told.row, api_url=NOWHERE)

        found = await reader(devnet, http, [liar.url, portal.url]).conversation(gone)

    assert said(found) == told.messages
    assert found.missing == ()


async def test_what_nobody_has_is_named(
    told: Told, devnet: Devnet, http: httpx.AsyncClient
) -> None:
    gone = dataclasses.replace(told.row, api_url=NOWHERE)

    found = await reader(devnet, http, []).conversation(gone)

    assert said(found) == []
    (part,) = found.missing
    assert (part.start_token, part.end_token > 100) == (0, True)
    assert "comes from nowhere" in part.reason


async def test_another_key_reads_nothing(
    told: Told, devnet: Devnet, http: httpx.AsyncClient
) -> None:
    other = dataclasses.replace(told.row, recovery_secret=secrets.token_bytes(32))

    found = await reader(devnet, http, []).conversation(other)

    assert said(found) == []
    assert "does not open with this recovery key" in found.missing[0].reason


async def test_another_hosts_signature_is_not_taken(
    told: Told, devnet: Devnet, http: httpx.AsyncClient
) -> None:
    other = dataclasses.replace(told.row, host=devnet.accounts[3].address)

    found = await reader(devnet, http, []).conversation(other)

    assert said(found) == []
    assert "not by the host" in found.missing[0].reason


async def test_a_session_without_a_claim_has_nothing(client: AsyncClient) -> None:
    (offer,) = await client.find_hosts()
    async with client.open_session(offer, deposit=Wei(10**15)) as session:
        with pytest.raises(NotFound, match="nothing was claimed"):
            await client.conversation(session.id)
        await session.close(now=True)
