"""Portals' answers, URLs, waits, health and presets, without a portal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import (
    AccessDenied,
    BlobTooLarge,
    ConfigError,
    CorruptBlob,
    NotFound,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    RemoteProtocolError,
    StorageError,
    WriteConflict,
)
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.portals import AccountFile, Backoff, PortalAccount, PortalPatience, expand
from fabstir.s5.portals.answers import (
    is_same_blob,
    parse_account,
    parse_registry,
    parse_token,
    parse_uploaded,
    registry_json,
)
from fabstir.s5.portals.groups import RUN_GROUPS, runs
from fabstir.s5.portals.health import Health
from fabstir.s5.portals.http import outcome_of, parse_origin, retry_after, shown
from fabstir.s5.portals.revisions import Revisions
from fabstir.s5.transfer.fetch import BlobSource
from fabstir.s5.verified.tree import GROUP_BYTES

NOW = 1_000_000_000.0
GIB = 1 << 30
seeds = st.binary(min_size=32, max_size=32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@given(seeds, st.integers(0, (1 << 48) - 1), st.binary(max_size=64))
def test_registry_entries_come_back_as_they_were(seed: bytes, revision: int, data: bytes) -> None:
    entry = sign_entry(seed, revision, data, NATIVE)

    body = json.dumps(dict(registry_json(entry))).encode()

    assert parse_registry(body, entry.public_key, NATIVE) == entry


@given(seeds, st.integers(0, (1 << 64) - 1), st.sampled_from(HashType), st.sampled_from("fbzu"))
def test_uploads_are_read_in_every_base(
    digest: bytes, size: int, hash_type: HashType, base: str
) -> None:
    blob = BlobId(digest, size, hash_type)

    assert parse_uploaded(json.dumps({"cid": blob.encode(base)}).encode()) == blob


@pytest.mark.parametrize(
    ("ours", "claimed", "same"),
    [
        (5, 5, True),
        (5, 6, False),
        (2 * GIB - 1, 0, False),
        # What S5.js computes: a signed 32-bit shift.
        (2 * GIB, (1 << 64) - (1 << 31), True),
        (4 * GIB, 0, True),
        (5 * GIB, GIB, True),
    ],
)
def test_sizes_count_below_two_gib_only(ours: int, claimed: int, same: bool) -> None:
    digest = bytes(32)

    assert is_same_blob(BlobId(digest, claimed), BlobId(digest, ours)) is same
    assert not is_same_blob(BlobId(bytes([1]) * 32, ours), BlobId(digest, ours))


@pytest.mark.parametrize(
    ("cookies", "body", "token"),
    [
        (["s5-auth-token=abc; Path=/"], b"", "abc"),
        (["a=b; s5-auth-token=abc; Secure"], b"", "abc"),
        (["x=1", "s5-auth-token=abc"], b"not JSON", "abc"),
        ([], b'{"authToken":"abc"}', "abc"),
        (["xs5-auth-token=evil"], b'{"authToken":"abc"}', "abc"),
    ],
)
def test_tokens_come_from_the_cookie_or_else_the_body(
    cookies: list[str], body: bytes, token: str
) -> None:
    assert parse_token(cookies, body) == token


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é", "x" * 1025, "a;b"])
def test_a_token_that_would_break_a_header_is_refused(token: str) -> None:
    with pytest.raises(RemoteProtocolError, match="visible characters"):
        parse_token([], json.dumps({"authToken": token}).encode())


def test_an_account_that_says_little_is_read() -> None:
    stats = parse_account(b"{}")

    assert (stats.tier, stats.used_bytes, stats.limit_bytes) == ("", None, None)


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("https://S5.Example", "https://s5.example", "s5.example"),
        ("https://s5.example:443/", "https://s5.example", "s5.example"),
        ("http://s5.example:8080", "http://s5.example:8080", "s5.example:8080"),
        ("http://[::1]:5522", "http://[::1]:5522", "[::1]:5522"),
    ],
)
def test_a_portals_url_has_one_form(url: str, origin: str, authority: str) -> None:
    assert parse_origin(url) == (origin, authority)


@pytest.mark.parametrize(
    "url",
    [
        "s5.example",
        "ftp://s5.example",
        "https://",
        "https://me:secret@s5.example",
        "https://s5.example/path",
        "https://s5.example/?q",
        "https://s5.example:port",
        "http://[",
        "http://xn--",
        "http://xn--a",
    ],
)
def test_what_is_no_portals_url_is_named_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_origin(url)

    assert "secret" not in str(caught.value)


hosts = st.one_of(
    st.sampled_from(["xn--", "xn--a", "a..b", "127.0.0.1", "[::1]", "a" * 70, "\u200d", "\xdf.de"]),
    st.text(max_size=20),
    st.text(max_size=20).map("xn--{}".format),
)


@given(
    url=st.one_of(
        st.text(max_size=60),
        st.builds(
            "{}://{}{}".format,
            st.sampled_from(["http", "https", "ws"]),
            hosts,
            st.text(max_size=20),
        ),
    )
)
def test_a_storage_location_is_a_web_address_or_a_named_error(url: str) -> None:
    try:
        source = BlobSource.location(url)
    except ConfigError:
        return

    assert httpx.URL(source.name).host
    assert source.name == source.origin + source.routes[0]
    assert BlobSource.location(source.name) == source


def test_the_preset_is_used_only_by_its_name() -> None:
    assert expand(["https://a.example", "https://a.example/"]) == ("https://a.example",)
    assert expand(["public", "https://s5.garden"]) == (
        "https://s5.vup.cx",
        "https://s5.garden",
        "https://node.sfive.net",
    )
    with pytest.raises(ConfigError):
        expand(["private"])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("999999", 3600.0),
        ("-1", 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("9" * 400, 0.0),
        (format_datetime(datetime.fromtimestamp(NOW + 30, UTC), usegmt=True), 30.0),
        (format_datetime(datetime.fromtimestamp(NOW - 30, UTC), usegmt=True), 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_what_others_write_is_shown_on_one_short_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 203


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (NotFound(""), "ok"),
        (WriteConflict("", ""), "ok"),
        (BlobTooLarge(1), "ok"),
        (PortalLied("", ""), "lied"),
        (PortalRefused("", 400, ""), "refused"),
        (AccessDenied(""), "refused"),
        (PortalUnavailable("", ""), "unavailable"),
        (CorruptBlob("", ""), None),
        (StorageError(""), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_outcomes(error: BaseException | None, outcome: str | None) -> None:
    assert outcome_of(error) == outcome


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 26))
def test_runs_cover_a_range_without_gaps(start: int, length: int) -> None:
    end = start + length

    groups = [group for first, count in runs(start, end) for group in range(first, first + count)]

    wanted = range(start // GROUP_BYTES, -(-end // GROUP_BYTES)) if length else range(0)
    assert groups == list(wanted)
    assert all(count <= RUN_GROUPS for _, count in runs(start, end))


def test_revisions_are_never_forgotten_downwards() -> None:
    revisions = Revisions()

    revisions.note(b"key", 5)
    revisions.note(b"key", 3)

    assert revisions.newest(b"key") == 5
    assert revisions.newest(b"other") == -1


def test_only_so_many_keys_are_remembered() -> None:
    revisions = Revisions()

    for number in range(10_001):
        revisions.note(number.to_bytes(4, "big"), 1)

    assert revisions.newest(bytes(4)) == -1
    assert revisions.newest((10_000).to_bytes(4, "big")) == 1


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def health_of(clock: Clock, **settings: float) -> Health:
    backoff = Backoff(first=10, most=100, after_lie=300, max_failures=2)
    return Health(backoff, clock, lambda: settings.get("random", 0.0))


def test_a_portal_that_fails_twice_is_left_alone_and_then_tried_by_one() -> None:
    clock = Clock()
    health = health_of(clock)

    health.note("unavailable", 1)
    first = health.may_ask()
    health.note("unavailable", 1)
    closed = health.may_ask()
    clock.now = 5.0
    tried = [health.may_ask(), health.may_ask()]
    health.note("unavailable", 1)
    clock.now = 14.9
    still_closed = health.may_ask()
    clock.now = 15.0
    again = health.may_ask()
    health.note("ok", 1)

    assert (first, closed, tried, still_closed, again) == (True, False, [True, False], False, True)
    assert health.closed_for == 0
    assert health.may_ask()


def test_an_abandoned_trial_lets_the_next_one_try() -> None:
    clock = Clock()
    health = health_of(clock)
    health.note("lied", 1)
    clock.now = 150.0

    first = health.may_ask()
    health.abandon()

    assert first
    assert health.may_ask()


def test_one_lie_closes_for_long_and_jitter_spreads() -> None:
    clock = Clock()
    calm, wild = health_of(clock), health_of(clock, random=0.99)

    calm.note("lied", 1)
    wild.note("lied", 1)

    assert calm.closed_for == 150
    assert 298 < wild.closed_for < 300


def test_what_a_portal_asks_for_is_waited_for() -> None:
    health = health_of(Clock())

    health.note("unavailable", 1, retry_after=60)

    assert health.closed_for == 60


def test_the_healthy_and_fast_come_first() -> None:
    clock = Clock()
    fast, slow, failing, closed = (health_of(clock) for _ in range(4))
    for _ in range(20):
        fast.note("ok", 0.01)
        slow.note("ok", 2.0)
        failing.note("refused", 0.01)
    closed.note("lied", 0.01)

    ranked = sorted([closed, failing, slow, fast], key=lambda health: health.rank)

    assert ranked == [fast, slow, failing, closed]


@given(st.integers(0, 10_000))
def test_delays_are_bounded(failures: int) -> None:
    assert 0 < Backoff().delay(failures, lambda: 0.5) <= Backoff().most
    assert 0 < PortalPatience().delay(failures) <= PortalPatience().max_delay


@pytest.mark.anyio
async def test_accounts_are_kept_by_portal_readable_by_nobody_else(tmp_path: Path) -> None:
    file = AccountFile(tmp_path / "deep" / "accounts.json")
    first = PortalAccount("https://a.example", bytes(32), "token")
    second = PortalAccount("https://b.example", bytes([1]) * 32)

    empty = await file.load_all()
    for account in (first, second, PortalAccount(first.url, first.seed, "newer")):
        await file.save(account)
    kept = await file.load_all()

    assert empty == {}
    assert [account.token for account in kept.values()] == ["newer", ""]
    assert kept[second.url] == second
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["accounts.json"]


@pytest.mark.anyio
async def test_accounts_that_are_saved_at_once_are_all_kept(tmp_path: Path) -> None:
    file = AccountFile(tmp_path / "accounts.json")
    accounts = [PortalAccount(f"https://{n}.example", bytes([n]) * 32) for n in range(16)]

    async with anyio.create_task_group() as tasks:
        for account in accounts:
            tasks.start_soon(file.save, account)

    kept = await file.load_all()
    assert sorted(kept.values(), key=lambda account: account.seed) == accounts


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"accounts": {"https://a": {"seed": "AA", "token": ""}}}',
        b'{"accounts": {"https://a": 5}}',
        b"[" * 1000,
    ],
)
async def test_a_broken_file_of_accounts_is_named_not_overwritten(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "accounts.json"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="restore it"):
        await AccountFile(path).save(PortalAccount("https://a.example", bytes(32)))

    assert path.read_bytes() == content
