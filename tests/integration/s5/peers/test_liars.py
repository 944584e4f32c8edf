"""Peers that lie: never a wrong byte, and the honest one is used."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.peers.liar import (
    Liar,
    Lie,
    expired,
    garbage,
    of_another_signer,
    open_liar,
    silence,
    too_long,
    wrong_bytes,
)
from tests.integration.s5.peers.nodes import QUICK, Node, listening_socket, open_node

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import (
    BlobTooLarge,
    NotFound,
    PortalError,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
)
from fabstir.s5.formats.wire import HashQuery
from fabstir.web.reach import STRANGERS

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SOON = 10.0
DATA = b"the right bytes"
BLOB = Multihash(b"\x01" * 32)


@pytest.mark.parametrize(
    "lie", [wrong_bytes, expired, of_another_signer, too_long, garbage, silence]
)
async def test_the_honest_peer_is_used_beside_one_that_lies_first(tmp_path: Path, lie: Lie) -> None:
    async with (
        open_liar(lie) as liar,
        open_node(tmp_path / "honest", 1, before_offer=liar.answered.wait) as honest,
        open_node(tmp_path / "asker", 2, [liar.url, honest.url]) as asker,
    ):
        blob = await honest.put(DATA)
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected(2)

            assert await asker.peers.get(blob, max_bytes=100) == DATA


@pytest.mark.parametrize("lie", [of_another_signer, too_long, garbage])
async def test_who_breaks_a_rule_is_dropped_and_not_dialled_again(tmp_path: Path, lie: Lie) -> None:
    async with open_liar(lie) as liar, open_node(tmp_path / "asker", 2, [liar.url]) as asker:
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            assert await asker.peers.find(BLOB) == []
            await liar.lost.wait()
            while not _is_avoided(asker, liar):
                await anyio.lowlevel.checkpoint()

        assert asker.peers.network.sessions == ()
        assert liar.num_connections == 1


async def test_who_gives_wrong_bytes_is_dropped_and_not_dialled_again(tmp_path: Path) -> None:
    async with open_liar(wrong_bytes) as liar, open_node(tmp_path, 2, [liar.url]) as asker:
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            with pytest.raises(PortalLied, match="not blob"):
                await asker.peers.get(BLOB, max_bytes=100)
            await liar.lost.wait()

        assert _is_avoided(asker, liar)
        assert asker.peers.network.sessions == ()
        assert liar.num_connections == 1


async def test_what_others_find_out_about_a_location_counts_too(tmp_path: Path) -> None:
    async with open_liar(wrong_bytes) as liar, open_node(tmp_path, 2, [liar.url]) as asker:
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            (location,) = await asker.peers.find(BLOB)

            asker.peers.report_bad(location)
            await liar.lost.wait()

        assert _is_avoided(asker, liar)
        assert await asker.peers.find(BLOB) == []


async def test_a_liar_that_dials_in_is_dropped_and_kept_out(tmp_path: Path) -> None:
    async with open_node(tmp_path, 2) as asker:
        connect_to = asker.url
        async with open_liar(wrong_bytes) as liar:
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(liar.dial, connect_to)
                    await asker.peers.wait_connected()
                    with pytest.raises(PortalLied):
                        await asker.peers.get(BLOB, max_bytes=100)
                await liar.lost.wait()
                await liar.dial(connect_to)  # returns: it is not let in again

            assert asker.peers.network.sessions == ()


async def test_expired_locations_are_never_used_and_cost_the_peer_its_place(tmp_path: Path) -> None:
    async with open_liar(expired) as liar, open_node(tmp_path, 2, [liar.url]) as asker:
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            for i in range(3):
                assert await asker.peers.find(Multihash(bytes([i]) * 32)) == []
            await liar.lost.wait()

        assert liar.num_downloads == 0
        assert _is_avoided(asker, liar)


async def test_locations_that_nobody_asked_for_are_not_kept(tmp_path: Path) -> None:
    def about_another_blob(liar: Liar, query: HashQuery) -> bytes:
        return liar.location(replace(query, hash=BLOB)).encode()

    async with open_liar(about_another_blob) as liar:
        limits = replace(QUICK, query_deadline=0.2)
        async with open_node(tmp_path, 2, [liar.url], limits=limits) as asker:
            await asker.peers.wait_connected()
            assert await asker.peers.find(Multihash(b"\x05" * 32)) == []

            with anyio.fail_after(SOON):
                (location,) = await asker.peers.find(BLOB)  # asks, as nothing was kept

    assert location.hash == BLOB


async def test_a_location_that_sends_no_whole_answer_is_passed_over(tmp_path: Path) -> None:
    def nowhere(liar: Liar, query: HashQuery) -> bytes:
        with listening_socket() as closed:
            return liar.location(query, port=closed.getsockname()[1]).encode()

    async with open_liar(nowhere) as liar, open_node(tmp_path, 2, [liar.url]) as asker:
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            with pytest.raises(PortalUnavailable, match="no whole answer"):
                await asker.peers.get(BLOB, max_bytes=100)

        assert len(asker.peers.network.sessions) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (HTTPStatus.NOT_FOUND, PortalRefused),
        (HTTPStatus.FOUND, PortalRefused),
        (HTTPStatus.SERVICE_UNAVAILABLE, PortalUnavailable),
    ],
)
async def test_who_promises_and_never_gives_is_asked_no_more(
    tmp_path: Path, status: HTTPStatus, error: type[PortalError]
) -> None:
    async with (
        open_liar(wrong_bytes, status=status) as liar,
        open_node(tmp_path, 2, [liar.url]) as asker,
    ):
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            for _ in range(3):
                with pytest.raises(error):
                    await asker.peers.get(BLOB, max_bytes=100)

            with pytest.raises(NotFound):
                await asker.peers.get(BLOB, max_bytes=100)

        assert liar.num_downloads == 3
        assert len(asker.peers.network.sessions) == 1  # what it says of the registry still counts


async def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    body = bytes(1 << 20)
    async with open_liar(wrong_bytes, body) as liar, open_node(tmp_path, 2, [liar.url]) as asker:
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            with pytest.raises(BlobTooLarge):
                await asker.peers.get(BLOB, max_bytes=100)


async def test_a_peer_of_the_settings_gives_from_its_own_door_and_no_other(tmp_path: Path) -> None:
    async with (
        open_liar(wrong_bytes) as liar,
        open_liar(wrong_bytes) as other,
        open_node(tmp_path, 2, [liar.url], reach=STRANGERS) as asker,
    ):
        with anyio.fail_after(SOON):
            await asker.peers.wait_connected()
            (location,) = await asker.peers.find(BLOB)
            (session,) = asker.peers.network.sessions

            with pytest.raises(PortalLied):
                await asker.peers.get(BLOB, max_bytes=100)

        network = asker.peers.network
        elsewhere = other.url.replace("ws://", "http://")
        assert liar.num_downloads == 1
        assert network.is_own_place(session.peer_key, location.parts[0])
        assert not network.is_own_place(session.peer_key, elsewhere)
        assert not network.is_own_place(bytes(32), location.parts[0])


def _is_avoided(asker: Node, liar: Liar) -> bool:
    (status,) = asker.peers.status()
    return status.url == liar.url and status.seconds_avoided > 60
