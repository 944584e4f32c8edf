"""A blob from several sources over real sockets, most of which do not mean well."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.transfer.server import Conduct, Sample, Server, noise, open_server

from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import (
    FetchFailed,
    HashMismatch,
    NotFound,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    StorageError,
    StorageFull,
    WriteConflict,
)
from fabstir.s5.portals.http import PortalPatience, open_client
from fabstir.s5.transfer._group_fetch import STREAMS_PER_ORIGIN
from fabstir.s5.transfer.fetch import BlobSource, Fetched, fetch_blob
from fabstir.s5.verified.tree import GROUP_BYTES
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ROOT = Path(__file__).resolve().parents[4]
RUN = 16 * GROUP_BYTES
SAMPLE = Sample.of(noise(5 * RUN + 3 * GROUP_BYTES + 1000))
"""24 MiB: six runs, the last of them short."""
PATIENCE = PortalPatience(stall_timeout=20, max_failures=2, first_delay=0.001, max_delay=0.01)
QUICK = PortalPatience(stall_timeout=0.3, max_failures=1, first_delay=0.001, max_delay=0.01)


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    async with open_client(Reach(allow_private=True)) as client:
        yield client


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "blob.bin"


class Fetching:
    """Servers, and the fetch from all of them."""

    def __init__(self, client: httpx.AsyncClient, target: Path) -> None:
        self.client = client
        self.target = target
        self.dropped: list[tuple[str, StorageError]] = []
        self.progress: list[tuple[int, int]] = []

    async def run(
        self,
        *sources: Server | BlobSource,
        sample: Sample = SAMPLE,
        patience: PortalPatience = PATIENCE,
    ) -> Fetched:
        places = [place.source if isinstance(place, Server) else place for place in sources]
        with anyio.fail_after(60):
            return await fetch_blob(
                sample.blob,
                places,
                self.target,
                client=self.client,
                patience=patience,
                on_progress=lambda done, total: self.progress.append((done, total)),
                on_dropped=lambda name, error: self.dropped.append((name, error)),
            )


@pytest.fixture
def fetching(client: httpx.AsyncClient, target: Path) -> Fetching:
    return Fetching(client, target)


async def test_two_sources_give_their_parts(fetching: Fetching, target: Path) -> None:
    async with open_server(SAMPLE) as one, open_server(SAMPLE) as two:
        fetched = await fetching.run(one, two)

    assert target.read_bytes() == SAMPLE.data
    assert set(fetched.bytes_from) == {one.name, two.name}
    assert sum(fetched.bytes_from.values()) == SAMPLE.blob.size
    assert fetching.progress == sorted(fetching.progress)
    assert fetching.progress[-1] == (SAMPLE.blob.size, SAMPLE.blob.size)
    assert [path.name for path in target.parent.iterdir()] == ["blob.bin"]
    assert fetched.dropped == {}


@pytest.mark.parametrize("size", [0, 1, GROUP_BYTES, GROUP_BYTES + 1, RUN, RUN + 1])
async def test_blobs_of_every_shape_arrive(fetching: Fetching, target: Path, size: int) -> None:
    sample = Sample.of(noise(size))

    async with open_server(sample) as server:
        await fetching.run(server, sample=sample)

    assert target.read_bytes() == sample.data


async def test_liars_are_dropped_by_name_and_the_honest_one_finishes(
    fetching: Fetching, target: Path
) -> None:
    lies = [
        Conduct(wrong_groups=frozenset(range(200))),
        Conduct(stated_size=7),
        Conduct(outboard=bytes(len(SAMPLE.outboard))),
        Conduct(outboard=SAMPLE.outboard[:-1] + bytes([SAMPLE.outboard[-1] ^ 1])),
    ]
    async with AsyncExitStack() as stack:
        liars = [await stack.enter_async_context(open_server(SAMPLE, lie)) for lie in lies]
        honest = await stack.enter_async_context(open_server(SAMPLE))
        fetched = await fetching.run(liars[2], liars[3], liars[0], liars[1], honest)

    assert target.read_bytes() == SAMPLE.data
    assert {name for name, _ in fetching.dropped} == {liar.name for liar in liars}
    assert all(isinstance(error, PortalLied) for _, error in fetching.dropped)
    assert dict(fetching.dropped) == fetched.dropped
    assert fetched.bytes_from == {honest.name: SAMPLE.blob.size}


@pytest.mark.parametrize("has_outboard", [True, False])
async def test_a_liar_costs_the_honest_one_at_the_same_origin_nothing(
    fetching: Fetching, target: Path, has_outboard: bool
) -> None:
    conduct = Conduct(lies_at=frozenset({"/liar"}), has_outboard=has_outboard)
    async with open_server(SAMPLE, conduct) as server:
        liar = server.source_at("/liar")
        fetched = await fetching.run(liar, server.source, liar)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.bytes_from == {server.name: SAMPLE.blob.size}
    assert {name: type(error) for name, error in fetched.dropped.items()} == {liar.name: PortalLied}


async def test_many_locations_at_one_origin_get_no_more_connections(
    fetching: Fetching, target: Path
) -> None:
    liars = [f"/liar?{number}" for number in range(15)]
    async with open_server(SAMPLE, Conduct(lies_at=frozenset(liars))) as server:
        fetched = await fetching.run(*map(server.source_at, liars), server.source)

    assert target.read_bytes() == SAMPLE.data
    assert server.most_open <= STREAMS_PER_ORIGIN
    assert server.name not in fetched.dropped


async def test_one_wrong_group_among_right_ones_is_named(fetching: Fetching, target: Path) -> None:
    async with (
        open_server(SAMPLE, Conduct(wrong_groups=frozenset({3}))) as liar,
        open_server(SAMPLE, Conduct(statuses=[503])) as honest,
    ):
        await fetching.run(liar, honest)

    (name, error), *_ = fetching.dropped
    assert (name, str(error)) == (
        liar.name,
        f"{liar.url}: its bytes {3 * GROUP_BYTES} to {4 * GROUP_BYTES} are not those of the blob",
    )
    assert target.read_bytes() == SAMPLE.data


async def test_a_stalling_source_holds_up_nobody(fetching: Fetching, target: Path) -> None:
    async with (
        open_server(SAMPLE, Conduct(stall_after=100_000)) as staller,
        open_server(SAMPLE) as honest,
    ):
        # With a stall's timeout of 20 s, this ends because the honest one takes over the rest.
        with anyio.fail_after(15):
            fetched = await fetching.run(staller, honest)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.bytes_from[honest.name] == SAMPLE.blob.size


async def test_a_staller_alone_is_dropped(fetching: Fetching) -> None:
    async with open_server(SAMPLE, Conduct(stall_after=100_000)) as staller:
        with pytest.raises(FetchFailed, match="no whole answer in time") as caught:
            await fetching.run(staller, patience=QUICK)

    assert isinstance(caught.value.dropped[staller.name], PortalUnavailable)
    assert caught.value.kept_bytes == 0


async def test_cut_connections_go_on_where_they_ended(fetching: Fetching, target: Path) -> None:
    cuts = [GROUP_BYTES * 3 + 17, 0, 5, GROUP_BYTES * 15 + 1]
    async with open_server(SAMPLE, Conduct(cut_after=cuts)) as server:
        fetched = await fetching.run(server)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.bytes_from == {server.name: SAMPLE.blob.size}
    assert (3 * GROUP_BYTES, RUN) in server.ranges or (RUN + 3 * GROUP_BYTES, 2 * RUN) in (
        server.ranges
    )


async def test_a_busy_source_is_asked_again(fetching: Fetching, target: Path) -> None:
    async with open_server(SAMPLE, Conduct(statuses=[503, 429, 500])) as server:
        await fetching.run(server)

    assert target.read_bytes() == SAMPLE.data


async def test_a_source_without_ranges_sends_everything(fetching: Fetching, target: Path) -> None:
    async with open_server(SAMPLE, Conduct(has_ranges=False)) as server:
        fetched = await fetching.run(server)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.dropped == {}


async def test_a_liar_without_ranges_is_found_out_before_its_end(fetching: Fetching) -> None:
    conduct = Conduct(has_ranges=False, wrong_groups=frozenset({0}))
    async with open_server(SAMPLE, conduct) as server:
        with pytest.raises(FetchFailed) as caught:
            await fetching.run(server)

    assert isinstance(caught.value.dropped[server.name], PortalLied)


async def test_the_outboard_of_one_serves_for_the_bytes_of_another(
    fetching: Fetching, target: Path
) -> None:
    async with (
        open_server(SAMPLE, Conduct(has_outboard=False)) as bytes_only,
        open_server(SAMPLE, Conduct(statuses=[403] * 20)) as outboard_only,
    ):
        fetched = await fetching.run(bytes_only, outboard_only)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.bytes_from == {bytes_only.name: SAMPLE.blob.size}
    assert isinstance(fetched.dropped[outboard_only.name], PortalRefused)


async def test_what_is_no_outboard_by_its_length_is_no_lie(
    fetching: Fetching, target: Path
) -> None:
    # The Dart node drops what follows a dot, and answers with the blob itself.
    async with open_server(SAMPLE, Conduct(outboard=SAMPLE.data)) as server:
        fetched = await fetching.run(server)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.dropped == {}


async def test_the_outboard_lies_beside_the_place_redirected_to(
    fetching: Fetching, target: Path
) -> None:
    async with open_server(SAMPLE) as store:
        conduct = Conduct(has_outboard=False, redirects_to=f"{store.url}/blobs/one")
        async with open_server(SAMPLE, conduct) as portal:
            fetched = await fetching.run(portal)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.bytes_from == {portal.name: SAMPLE.blob.size}
    assert "/blobs/one.obao" in store.paths
    assert len(store.ranges) > 6


class TestWithoutOutboard:
    """Nobody has one: whole, one after the other."""

    async def test_it_is_verified_at_the_end(self, fetching: Fetching, target: Path) -> None:
        async with open_server(SAMPLE, Conduct(has_outboard=False)) as server:
            await fetching.run(server)

        assert target.read_bytes() == SAMPLE.data
        assert [path.name for path in target.parent.iterdir()] == ["blob.bin"]

    async def test_a_liar_is_dropped_and_the_next_one_asked(
        self, fetching: Fetching, target: Path
    ) -> None:
        lie = Conduct(has_outboard=False, wrong_groups=frozenset({40}))
        async with (
            open_server(SAMPLE, lie) as liar,
            open_server(SAMPLE, Conduct(has_outboard=False)) as honest,
        ):
            fetched = await fetching.run(liar, honest)

        assert target.read_bytes() == SAMPLE.data
        assert isinstance(fetched.dropped[liar.name], PortalLied)
        assert fetched.bytes_from == {honest.name: SAMPLE.blob.size}

    async def test_a_cut_is_resumed(self, fetching: Fetching, target: Path) -> None:
        # The first request only looks for a redirection.
        conduct = Conduct(has_outboard=False, cut_after=[1, 3_000_000])
        async with open_server(SAMPLE, conduct) as server:
            await fetching.run(server)

        assert target.read_bytes() == SAMPLE.data
        assert 2_000_000 <= server.ranges[-1][0] <= 3_000_000

    async def test_a_wrong_part_of_another_costs_the_honest_one_nothing(
        self, fetching: Fetching, target: Path
    ) -> None:
        lie = Conduct(
            has_outboard=False, wrong_groups=frozenset({0}), cut_after=[1, 3_000_000, 3, 3]
        )
        async with (
            open_server(SAMPLE, lie) as liar,
            open_server(SAMPLE, Conduct(has_outboard=False)) as honest,
        ):
            fetched = await fetching.run(liar, honest, patience=QUICK)

        assert target.read_bytes() == SAMPLE.data
        assert set(fetched.dropped) == {liar.name}

    async def test_a_blob_of_sha256_has_no_outboard(self, fetching: Fetching, target: Path) -> None:
        blob = BlobId(hashlib.sha256(SAMPLE.data).digest(), len(SAMPLE.data), HashType.SHA256)
        async with open_server(SAMPLE) as server:
            await fetching.run(server, sample=Sample(SAMPLE.data, blob, b""))

        assert target.read_bytes() == SAMPLE.data
        assert server.paths == ["/blobs/one"]


async def test_a_blob_that_nobody_has_is_not_found(fetching: Fetching) -> None:
    gone = [404] * 30
    async with (
        open_server(SAMPLE, Conduct(has_outboard=False, statuses=list(gone))) as one,
        open_server(SAMPLE, Conduct(has_outboard=False, statuses=list(gone))) as two,
    ):
        with pytest.raises(NotFound, match="is at none of"):
            await fetching.run(one, two)


async def test_every_reason_is_said(fetching: Fetching) -> None:
    nowhere = BlobSource.location("http://127.0.0.1:9/x")
    async with open_server(SAMPLE, Conduct(has_outboard=False, statuses=[404] * 30)) as gone:
        with pytest.raises(FetchFailed, match=r"no connection.*does not know this") as caught:
            await fetching.run(nowhere, gone)

    assert set(caught.value.dropped) == {gone.name, nowhere.name}


async def test_no_source_at_all_is_said(fetching: Fetching) -> None:
    with pytest.raises(FetchFailed, match="no source is named"):
        await fetching.run()


async def test_a_false_size_of_the_identifier_is_found_out(fetching: Fetching) -> None:
    longer = Sample(SAMPLE.data, BlobId(SAMPLE.blob.digest, SAMPLE.blob.size + 1), b"")
    async with open_server(SAMPLE) as server:
        with pytest.raises(FetchFailed):
            await fetching.run(server, sample=longer)
    empty = Sample(b"", BlobId(SAMPLE.blob.digest, 0), b"")
    with pytest.raises(HashMismatch):
        await fetching.run(sample=empty)


async def test_a_killed_fetch_is_resumed_by_the_next(fetching: Fetching, target: Path) -> None:
    conduct = Conduct()
    async with open_server(SAMPLE, conduct) as server:
        script = Path(__file__).with_name("fetch_child.py")
        url = f"{server.url}/blobs/one"
        command = [sys.executable, str(script), SAMPLE.blob.encode(), str(target), url]
        async with await anyio.open_process(command, cwd=ROOT, stderr=None) as child:
            assert child.stdout is not None
            seen = b""
            with anyio.fail_after(30):
                while b"\n" not in seen:
                    seen += await child.stdout.receive()
            conduct.stall_after = 0
            child.kill()
            await child.wait()
        conduct.stall_after = None
        assert not target.exists()
        before = server.num_body_bytes

        fetched = await fetching.run(server)

    assert target.read_bytes() == SAMPLE.data
    kept = SAMPLE.blob.size - sum(fetched.bytes_from.values())
    assert kept >= RUN
    assert server.num_body_bytes - before == SAMPLE.blob.size - kept
    assert fetching.progress[0][0] > 0


async def test_what_rotted_in_the_part_is_fetched_again(fetching: Fetching, target: Path) -> None:
    async with open_server(SAMPLE, Conduct(wrong_groups=frozenset({60}))) as liar:
        with pytest.raises(FetchFailed) as caught:
            await fetching.run(liar)
    assert caught.value.kept_bytes > RUN
    (part,) = target.parent.glob("*.part")
    with part.open("r+b") as file:
        file.seek(5)
        file.write(b"rot")

    async with open_server(SAMPLE) as server:
        fetched = await fetching.run(server)

    assert target.read_bytes() == SAMPLE.data
    assert fetched.bytes_from[server.name] >= GROUP_BYTES
    assert 0 in {start for start, _ in server.ranges}


async def test_a_damaged_journal_and_outboard_cost_a_fetch_and_no_more(
    fetching: Fetching, target: Path
) -> None:
    async with open_server(SAMPLE, Conduct(wrong_groups=frozenset({60}))) as liar:
        with pytest.raises(FetchFailed):
            await fetching.run(liar)
    (journal,) = target.parent.glob("*.done")
    (outboard,) = target.parent.glob("*.obao")
    journal.write_bytes(b"\xff\xff\xff\xff" + noise(1001))
    outboard.write_bytes(b"nonsense")

    async with open_server(SAMPLE) as server:
        await fetching.run(server)

    assert target.read_bytes() == SAMPLE.data


async def test_two_fetches_to_one_place_are_refused(fetching: Fetching, target: Path) -> None:
    async with open_server(SAMPLE, Conduct(stall_after=1)) as server:
        started = anyio.Event()
        server.conduct.on_body = lambda _count: started.set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetching.run, server)
            await started.wait()
            with pytest.raises(WriteConflict, match="another process fetches"):
                await fetching.run(server)
            tasks.cancel_scope.cancel()


async def test_a_disk_without_room_is_said_before_anything_is_fetched(fetching: Fetching) -> None:
    huge = Sample(b"", BlobId(bytes(32), 1 << 60), b"")
    async with open_server(SAMPLE) as server:
        with pytest.raises(StorageFull, match="bytes free"):
            await fetching.run(server, sample=huge)

    assert server.paths == []
