"""How much of a host's list of claims is believed, and how much of what it names is fetched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Hash32
from fabstir.protocol.checkpoint import CheckpointEntry
from fabstir.sdk.session_job.checkpoints import (
    MAX_CLAIMS,
    MAX_CONVERSATION_BYTES,
    MAX_DELTA_BYTES,
    check_claims,
    readable_claims,
)


def claim(start: int, end: int, size: int = 100) -> CheckpointEntry:
    return CheckpointEntry(
        index=0,
        proof_hash=Hash32("0x" + "00" * 32),
        proof_cid="",
        delta_cid=BlobId(bytes(32), size).encode(),
        start_token=start,
        end_token=end,
        timestamp=0,
        is_encrypted=True,
    )


def claims(count: int, size: int = 100) -> list[CheckpointEntry]:
    return [claim(number, number + 1, size) for number in range(count)]


@given(st.lists(st.integers(1, 1000), max_size=20))
def test_claims_one_behind_the_other_are_believed(lengths: list[int]) -> None:
    entries: list[CheckpointEntry] = []
    tokens = 0
    for length in lengths:
        entries.append(claim(tokens, tokens + length))
        tokens += length

    check_claims(entries)


@pytest.mark.parametrize(
    "entries",
    [
        [claim(1, 2)],
        [claim(0, 0)],
        [claim(0, 5), claim(0, 5)],
        [claim(0, 5), claim(6, 7)],
        [claim(0, 5), claim(5, 4)],
    ],
    ids=["not from 0", "no tokens", "twice", "a gap", "backwards"],
)
def test_a_list_that_is_none_of_claims_is_refused(entries: list[CheckpointEntry]) -> None:
    with pytest.raises(RemoteProtocolError, match="checkpoint index has a claim"):
        check_claims(entries)


def test_a_usual_conversation_is_read_whole() -> None:
    usual = claims(50, MAX_DELTA_BYTES // 4)

    assert readable_claims(usual) == (usual, ())


def test_no_more_claims_are_read_than_a_session_has() -> None:
    readable, (missing,) = readable_claims(claims(MAX_CLAIMS + 10))

    assert len(readable) == MAX_CLAIMS
    assert (missing.start_token, missing.end_token) == (MAX_CLAIMS, MAX_CLAIMS + 10)


@given(st.lists(st.integers(0, 1 << 50), max_size=60))
def test_no_more_bytes_are_fetched_than_are_held(sizes: list[int]) -> None:
    listed = [claim(number, number + 1, size) for number, size in enumerate(sizes)]

    readable, missing = readable_claims(listed)

    assert sum(sizes[: len(readable)]) <= MAX_CONVERSATION_BYTES
    assert bool(missing) == (sum(sizes) > MAX_CONVERSATION_BYTES)
