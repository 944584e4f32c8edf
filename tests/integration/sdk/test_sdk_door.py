"""A door is tried before a deposit is locked, and what answers there is a stranger."""

from __future__ import annotations

import gzip
import json
import secrets
import time
from collections.abc import AsyncGenerator

import pytest
from tests.integration.sdk.scripted_door import ScriptedDoor, open_scripted_door

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import HostUnresponsive, PeerUnreachable, RemoteProtocolError
from fabstir.primitives.ids import Address, ModelId
from fabstir.sdk import door as door_module
from fabstir.sdk.door import MAX_DOOR_BYTES, DoorAnswer, Doors, open_hosts_client
from fabstir.sdk.transports import Transports
from fabstir.sdk.websocket import WebSocketDialer
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

HOST = Address("0x" + "aa" * 20)
MODEL_ID = ModelId("0x" + "12" * 32)
SECRET = bytes([5]) * 32
PATHS = ["/v1/health", "/v1/models", "/v1/auth/challenge"]
SOCKET_BUFFERS = 8 << 20


@pytest.fixture
async def door() -> AsyncGenerator[ScriptedDoor]:
    async with open_scripted_door(ScriptedDoor(secret=SECRET, model_id=MODEL_ID)) as served:
        yield served


@pytest.fixture
async def doors() -> AsyncGenerator[Doors]:
    async with open_hosts_client(Reach(allow_private=True)) as http:
        yield Doors(http=http, crypto=NATIVE, random=secrets.token_bytes)


async def answer_of(doors: Doors, door: ScriptedDoor) -> DoorAnswer:
    return await doors.answer_of(door.url, MODEL_ID, NATIVE.public_key(SECRET))


async def test_a_good_door_says_its_context(doors: Doors, door: ScriptedDoor) -> None:
    assert (await answer_of(doors, door)).max_model_len == 2048


async def test_a_socket_is_measured_by_itself(door: ScriptedDoor) -> None:
    dialer = WebSocketDialer(Reach(allow_private=True))

    assert 0 < await dialer.measure(door.url, "host") < 5


async def test_a_url_without_a_socket_behind_it_is_no_way_to_a_host(door: ScriptedDoor) -> None:
    transports = Transports([WebSocketDialer(Reach(allow_private=True))])
    wrong = f"{door.url}/elsewhere"
    addresses = [wrong, "/ip4/127.0.0.1/tcp/9000/p2p/peer"]

    with pytest.raises(HostUnresponsive) as caught:
        await transports.measure(addresses, HOST, timeout=5)

    assert f"host {HOST} at {wrong} cannot be reached: " in str(caught.value)
    assert f"at {addresses[1]} cannot be reached: no transport" in str(caught.value)


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_without_end_is_read_no_further_than_its_limit(
    doors: Doors, door: ScriptedDoor, path: str
) -> None:
    door.endless.add(path)

    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_DOOR_BYTES} bytes"):
        await answer_of(doors, door)

    assert door.num_sent < MAX_DOOR_BYTES + SOCKET_BUFFERS


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_no_json_is_refused(
    doors: Doors, door: ScriptedDoor, path: str
) -> None:
    door.answers[path] = b"<html>"

    with pytest.raises(RemoteProtocolError):
        await answer_of(doors, door)


async def test_a_packed_body_is_not_unpacked(doors: Doors, door: ScriptedDoor) -> None:
    door.headers.append(("content-encoding", "gzip"))
    door.answers["/v1/health"] = gzip.compress(b" " * (64 << 20))

    with pytest.raises(RemoteProtocolError):
        await answer_of(doors, door)


@pytest.mark.parametrize("path", PATHS)
async def test_a_silent_door_is_given_up(
    doors: Doors, door: ScriptedDoor, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "DOOR_TIMEOUT", 0.5)
    door.silent.add(path)
    started = time.monotonic()

    with pytest.raises(PeerUnreachable, match="does not answer"):
        await answer_of(doors, door)

    assert time.monotonic() - started < 3


async def test_a_door_that_does_not_serve_the_model_now_says_so(
    doors: Doors, door: ScriptedDoor
) -> None:
    door.answers["/v1/models"] = json.dumps({"models": []}).encode()

    with pytest.raises(PeerUnreachable, match="does not list the model"):
        await answer_of(doors, door)


async def test_somebody_elses_door_under_another_key_is_refused(
    doors: Doors, door: ScriptedDoor
) -> None:
    """Else a deposit would be locked for a handshake that nobody there can open."""
    with pytest.raises(RemoteProtocolError, match="does not hold the publicKey"):
        await doors.answer_of(door.url, MODEL_ID, NATIVE.public_key(bytes([6]) * 32))
