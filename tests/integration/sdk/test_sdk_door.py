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
from fabstir.primitives.errors import PeerUnreachable, RemoteProtocolError
from fabstir.primitives.ids import ModelId
from fabstir.sdk import door as door_module
from fabstir.sdk.door import MAX_DOOR_BYTES, DoorAnswer, Doors, open_hosts_client
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

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


async def test_a_good_door_says_its_context_and_is_measured(
    doors: Doors, door: ScriptedDoor
) -> None:
    answer = await answer_of(doors, door)

    assert answer.max_model_len == 2048
    assert 0 < answer.latency < 5


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
