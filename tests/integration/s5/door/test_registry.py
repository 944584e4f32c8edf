"""The registry over HTTP."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.door.door import Door, b64, error_of, open_door

from fabstir.crypto import NATIVE
from fabstir.s5.door import Limits
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.registry import SignedEntry, sign_entry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def entry_json(entry: SignedEntry) -> dict[str, str | int]:
    return {
        "pk": b64(encode_multikey(entry.public_key)),
        "revision": entry.revision,
        "data": b64(entry.data),
        "signature": b64(entry.signature),
    }


async def test_an_entry_comes_back(door: Door) -> None:
    account = await door.account()
    seed = secrets.token_bytes(32)
    entry = sign_entry(seed, 7, b"\x1e" + bytes(32), NATIVE)
    body = entry_json(entry)
    params = {"pk": str(body["pk"])}

    missing = await door.http.get("/s5/registry", params=params)
    assert (missing.status_code, error_of(missing)) == (404, "not_found")
    assert (await account.http.post("/s5/registry", json=body)).status_code == 204
    assert (await door.http.get("/s5/registry", params=params)).json() == body
    assert (await account.http.post("/s5/registry", json=body)).status_code == 204

    for revision in (6, 7):
        old = entry_json(sign_entry(seed, revision, b"other", NATIVE))
        answer = await account.http.post("/s5/registry", json=old)
        assert (answer.status_code, error_of(answer)) == (409, "conflict")
    newer = entry_json(sign_entry(seed, 8, b"", NATIVE))
    assert (await account.http.post("/s5/registry", json=newer)).status_code == 204
    assert (await door.http.get("/s5/registry", params=params)).json() == newer


async def test_new_keys_are_bounded_by_account_and_said_to_be(folder: Path) -> None:
    limits = Limits(new_key_burst=3, new_keys_per_second=1e-6)
    async with open_door(folder, limits=limits) as door:
        one, other = await door.account(), await door.account()
        seeds = [secrets.token_bytes(32) for _ in range(5)]

        for seed in seeds[:3]:
            body = entry_json(sign_entry(seed, 1, b"", NATIVE))
            assert (await one.http.post("/s5/registry", json=body)).status_code == 204
        again = entry_json(sign_entry(seeds[0], 2, b"", NATIVE))
        fourth = entry_json(sign_entry(seeds[3], 1, b"", NATIVE))
        refused = await one.http.post("/s5/registry", json=fourth)

        assert (refused.status_code, error_of(refused)) == (429, "too_many_requests")
        assert "registry keys of this account" in refused.json()["message"]
        assert (await one.http.post("/s5/registry", json=again)).status_code == 204
        assert (await other.http.post("/s5/registry", json=fourth)).status_code == 204


@pytest.mark.parametrize("num_keys", [80, pytest.param(400, marks=pytest.mark.heavy)])
async def test_many_new_keys_at_once_are_all_kept(door: Door, num_keys: int) -> None:
    account = await door.account()
    bodies = [
        entry_json(sign_entry(n.to_bytes(32), 1, b"", NATIVE)) for n in range(1, num_keys + 1)
    ]
    statuses: list[int] = []

    async def write(body: dict[str, str | int]) -> None:
        answer = await account.http.post("/s5/registry", json=body, timeout=120)
        statuses.append(answer.status_code)

    async with anyio.create_task_group() as tasks:
        for body in bodies:
            tasks.start_soon(write, body)

    assert statuses == [204] * num_keys


async def test_who_writes_has_a_token(door: Door) -> None:
    body = entry_json(sign_entry(secrets.token_bytes(32), 1, b"x", NATIVE))

    assert (await door.http.post("/s5/registry", json=body)).status_code == 401


async def test_forged_and_odd_entries(door: Door) -> None:
    good = entry_json(sign_entry(secrets.token_bytes(32), 1, b"x", NATIVE))
    other = entry_json(sign_entry(secrets.token_bytes(32), 1, b"x", NATIVE))
    bodies = [
        good | {"pk": other["pk"]},
        good | {"signature": other["signature"]},
        good | {"revision": 2},
        good | {"data": b64(b"y")},
        good | {"data": b64(bytes(65))},
        good | {"revision": -1},
        good | {"revision": 1 << 48},
        good | {"revision": 1.5},
        good | {"pk": b64(bytes(33))},
        good | {"pk": 5},
        {name: value for name, value in good.items() if name != "signature"},
        {},
    ]

    for body in bodies:
        answer = await door.owner.post("/s5/registry", json=body)
        assert (answer.status_code, error_of(answer)) == (400, "validation_error")
    params = {"pk": str(good["pk"])}
    assert (await door.http.get("/s5/registry", params=params)).status_code == 404
    for pk in ("", "x", "é", b64(bytes(32)), "A" * 10_000):
        answer = await door.http.get("/s5/registry", params={"pk": pk})
        assert answer.status_code == 400
