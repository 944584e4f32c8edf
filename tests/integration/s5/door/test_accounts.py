"""Accounts: made and entered by signed challenges, that work once, for one key, at one portal."""

from __future__ import annotations

import secrets
import stat
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from coincurve import PrivateKey
from tests.integration.s5.door.door import (
    Door,
    b64,
    blob_of,
    error_of,
    open_door,
    public_key,
    signed_answer,
    unb64,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import KeystoreError
from fabstir.primitives.ids import Address
from fabstir.protocol.eip712 import personal_digest
from fabstir.s5.formats.account import ChallengeKind
from fabstir.s5.identities.node_secrets import OWNER_TOKEN_FILE, load_owner_token
from fabstir.s5.tables import accounts as table

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

MSGPACK: Any = msgpack  # it has no types
LOGIN, REGISTER = ChallengeKind.LOGIN, ChallengeKind.REGISTER


async def challenge(door: Door, kind: ChallengeKind, seed: bytes) -> bytes:
    answer = await door.http.get(
        f"/s5/account/{kind.name.lower()}", params={"pubKey": public_key(seed)}
    )
    assert answer.status_code == 200
    return unb64(answer.json()["challenge"])


async def test_register_and_log_in(door: Door) -> None:
    seed = secrets.token_bytes(32)

    registered = await door.enter(seed)
    logged_in = await door.enter(seed, LOGIN)

    tokens = [answer.json()["authToken"] for answer in (registered, logged_in)]
    assert tokens[0] != tokens[1]
    for token in tokens:
        async with door.client(token) as http:
            account = (await http.get("/s5/account")).json()
            assert account["label"] == "test"
            assert account["isOwner"] is False
            assert account["tier"]["storageLimit"] == 4 << 20
    cookie = registered.headers["set-cookie"]
    assert cookie.startswith(f"s5-auth-token={tokens[0]};")
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=2592000"):
        assert attribute in cookie


async def test_registering_again_is_entering(door: Door) -> None:
    """The answer of the first time may have been lost on its way."""
    seed = secrets.token_bytes(32)
    first, second = await door.enter(seed), await door.enter(seed)

    async with door.client(first.json()["authToken"]) as http:
        await http.post("/s5/upload", content=b"mine")
    async with door.client(second.json()["authToken"]) as http:
        stats = (await http.get("/s5/account/stats")).json()

    assert stats["stats"]["total"]["usedStorage"] == 4


async def test_an_answer_counts_once(door: Door) -> None:
    seed = secrets.token_bytes(32)
    await door.enter(seed)
    body = signed_answer(seed, LOGIN, await challenge(door, LOGIN, seed), door.authority)

    first = await door.http.post("/s5/account/login", json=body)
    second = await door.http.post("/s5/account/login", json=body)
    door.http.cookies.clear()

    assert first.status_code == 200
    assert (second.status_code, error_of(second)) == (403, "forbidden")


async def test_answers_that_do_not_count(door: Door) -> None:
    seed, other = secrets.token_bytes(32), secrets.token_bytes(32)
    await door.enter(seed)
    given = await challenge(door, LOGIN, seed)
    good = signed_answer(seed, LOGIN, given, door.authority)
    answers = {
        "another portal's": signed_answer(seed, LOGIN, given, "evil.example"),
        "for registering": signed_answer(seed, REGISTER, given, door.authority),
        "another challenge": signed_answer(seed, LOGIN, secrets.token_bytes(32), door.authority),
        "another key's": signed_answer(other, LOGIN, given, door.authority),
        "another key's signature": good
        | {"signature": signed_answer(other, LOGIN, given, door.authority)["signature"]},
        "cut": good | {"response": good["response"][:40]},
        "empty": good | {"response": "", "signature": ""},
        "no key": good | {"pubKey": ""},
        "no base64": good | {"signature": "!!"},
        "no text": good | {"response": 5},
    }

    for name, body in answers.items():
        answer = await door.http.post("/s5/account/login", json=body)
        assert answer.status_code in {400, 403}, name
        assert error_of(answer)
        assert "set-cookie" not in answer.headers
    assert (await door.http.post("/s5/account/login", json=good)).status_code == 200
    door.http.cookies.clear()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"nul", b"\xff", b"[" * 5000, b"{}" * 40_000])
async def test_odd_bodies(door: Door, body: bytes) -> None:
    answer = await door.owner.post("/s5/account/login", content=body)

    assert answer.status_code in {400, 413}


@pytest.mark.parametrize("key", ["", "x", "7Q", b64(b"\xee" + bytes(32)), b64(bytes(33)), "é" * 50])
async def test_odd_keys(door: Door, key: str) -> None:
    answer = await door.owner.get("/s5/account/register", params={"pubKey": key})

    assert (answer.status_code, error_of(answer)) == (400, "validation_error")


async def test_a_key_without_an_account(door: Door) -> None:
    answer = await door.enter(secrets.token_bytes(32), LOGIN)

    assert (answer.status_code, error_of(answer)) == (403, "forbidden")


async def test_the_other_name_of_the_node(door: Door) -> None:
    seed = secrets.token_bytes(32)
    given = await challenge(door, REGISTER, seed)
    name = f"localhost:{door.authority.rpartition(':')[2]}"

    answer = await door.http.post(
        "/s5/account/register", json=signed_answer(seed, REGISTER, given, name)
    )
    door.http.cookies.clear()

    assert answer.status_code == 200


async def test_a_closed_node_takes_whom_its_owner_invites(folder: Path) -> None:
    async with open_door(folder, is_open=False) as door:
        seed = secrets.token_bytes(32)

        stranger = await door.enter(seed)
        invited = await door.enter(seed, http=door.owner)

        assert (stranger.status_code, error_of(stranger)) == (403, "forbidden")
        assert invited.status_code == 200
        assert (await door.enter(seed, LOGIN)).status_code == 200


async def test_log_out(door: Door) -> None:
    account = await door.account()

    assert (await account.http.post("/s5/account/logout")).status_code == 204

    assert (await account.http.get("/s5/account")).status_code == 401
    assert (await door.http.post("/s5/account/logout")).status_code == 401


async def test_tokens_are_kept_as_hashes_only(door: Door) -> None:
    account = await door.account()
    owner = door.owner.headers["authorization"].removeprefix("Bearer ")

    for path in door.store.folder.glob("*.sqlite*"):
        assert account.token.encode() not in path.read_bytes()
        assert owner.encode() not in path.read_bytes()


async def test_an_account_has_only_so_many_tokens(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAX_TOKENS", 2)
    account = await door.account()

    for _ in range(2):
        assert (await door.enter(account.seed, LOGIN)).status_code == 200

    assert (await account.http.get("/s5/account")).status_code == 401


async def test_quotas_hold_after_a_restart_with_other_settings(folder: Path) -> None:
    async with open_door(folder) as door:
        account = await door.account()
    async with open_door(folder, account_bytes=10) as door, door.client(account.token) as http:
        assert (await http.post("/s5/upload", content=bytes(11))).status_code == 507
        assert (await http.post("/s5/upload", content=bytes(10))).status_code == 200


async def test_pins_as_portals_list_them(door: Door) -> None:
    account = await door.account()
    blobs = [secrets.token_bytes(100) for _ in range(5)]

    async def listed(cursor: int | None = None) -> tuple[int, list[bytes]]:
        params = {} if cursor is None else {"cursor": str(cursor)}
        answer = await account.http.get("/s5/account/pins.bin", params=params)
        unpacker = MSGPACK.Unpacker()
        unpacker.feed(answer.content)
        kind, newest, hashes = list(unpacker)
        assert kind == 0
        return newest, hashes

    assert await listed() == (0, [])
    for data in blobs:
        await account.http.post("/s5/upload", content=data)
    newest, hashes = await listed()
    assert sorted(hashes) == sorted(blob_of(data).multihash.to_bytes() for data in blobs)
    last = blob_of(blobs[-1]).multihash.to_bytes()
    assert last in (await listed(newest))[1]
    assert await listed(newest + 1) == (newest + 1, [])
    for cursor in ("x", "-1", "1" * 17, "٣"):
        answer = await account.http.get("/s5/account/pins.bin", params={"cursor": cursor})
        assert answer.status_code == 400


async def test_the_owner(door: Door) -> None:
    account = (await door.owner.get("/s5/account/stats")).json()

    assert account["isOwner"] is True
    assert account["quotaExceeded"] is False
    assert (await door.http.get("/s5/account")).status_code == 401


def test_the_owners_token_is_the_owners_alone(tmp_path: Path) -> None:
    token = load_owner_token(tmp_path)
    path = tmp_path / OWNER_TOKEN_FILE

    assert load_owner_token(tmp_path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(KeystoreError, match="chmod 600"):
        load_owner_token(tmp_path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(KeystoreError, match="no token"):
        load_owner_token(tmp_path)


HOST_SECRET = bytes(31) + b"\7"
HOST = NATIVE.address_of(NATIVE.public_key(HOST_SECRET))


@pytest.fixture(scope="module")
async def host_door(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Door]:
    async def is_host(address: Address) -> bool:
        return address == HOST

    folder = tmp_path_factory.mktemp("hosts")
    async with open_door(folder, is_host=is_host, is_open=False) as door:
        yield door


def vouched(secret: bytes, seed: bytes, address: str | None = None) -> dict[str, str]:
    address = NATIVE.address_of(NATIVE.public_key(secret)) if address is None else address
    message = f"Register S5 account for {address}"
    signature = NATIVE.sign(secret, personal_digest(message.encode(), NATIVE))
    return {
        "pubKey": public_key(seed),
        "ethAddress": address,
        "signature": "0x" + signature.hex(),
        "message": message,
    }


async def test_hosts_register_by_their_wallet(host_door: Door) -> None:
    seed = secrets.token_bytes(32)

    first = await host_door.http.post("/s5/account/register-host", json=vouched(HOST_SECRET, seed))
    given = unb64(first.json()["challenge"])
    body = signed_answer(seed, REGISTER, given, host_door.authority)
    second = await host_door.http.post("/s5/account/register-host/complete", json=body)
    host_door.http.cookies.clear()

    assert second.status_code == 200
    async with host_door.client(second.json()["authToken"]) as http:
        assert (await http.get("/s5/account")).json()["ethAddress"] == HOST
    again = await host_door.http.post("/s5/account/register-host/complete", json=body)
    assert again.status_code == 403
    other = secrets.token_bytes(32)
    first = await host_door.http.post("/s5/account/register-host", json=vouched(HOST_SECRET, other))
    body = signed_answer(other, REGISTER, unb64(first.json()["challenge"]), host_door.authority)
    taken = await host_door.http.post("/s5/account/register-host/complete", json=body)
    assert (taken.status_code, error_of(taken)) == (409, "conflict")


async def test_who_is_no_host(host_door: Door) -> None:
    seed = secrets.token_bytes(32)
    stranger = PrivateKey().secret
    bodies = {
        "not on chain": (vouched(stranger, seed), 403),
        "another's signature": (vouched(stranger, seed, HOST), 403),
        "another message": (vouched(HOST_SECRET, seed) | {"message": "I agree"}, 400),
        "no address": (vouched(HOST_SECRET, seed, "0x12"), 400),
        "short signature": (vouched(HOST_SECRET, seed) | {"signature": "0x12"}, 400),
        "zero signature": (vouched(HOST_SECRET, seed) | {"signature": "00" * 65}, 403),
    }

    for name, (body, status) in bodies.items():
        answer = await host_door.http.post("/s5/account/register-host", json=body)
        assert answer.status_code == status, name
    body = signed_answer(seed, REGISTER, bytes(32), host_door.authority)
    early = await host_door.http.post("/s5/account/register-host/complete", json=body)
    assert early.status_code == 403


async def test_nodes_without_a_chain_register_no_hosts(door: Door) -> None:
    for path in ("register-host", "register-host/complete"):
        answer = await door.http.post(f"/s5/account/{path}", json={})
        assert (answer.status_code, error_of(answer)) == (404, "not_found")
