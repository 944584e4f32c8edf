"""A stop string that is held back while the host waits for its renter."""

from __future__ import annotations

from itertools import accumulate

import pytest
from tests.e2e.gate.steps import open_as_depositor
from tests.e2e.harness import Wallet
from tests.e2e.raw_client import Answer, RawClient

from fabstir.cli.host_process import HostProcess
from fabstir.protocol.host_messages import EncryptedChunk
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS
from fabstir.serving.answer import PATIENCE

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

COUNT = "Count from 1 to 100, separated by commas."
NUM_TOKENS = 200


LATE = 2 * PATIENCE
"""Seconds: the host has given the engine's slot to others meanwhile."""


async def test_a_stop_string_across_a_late_acknowledgement_is_found(
    host: HostProcess, wallet: Wallet, client: RawClient
) -> None:
    async def count(*stop: str) -> Answer:
        session = await open_as_depositor(client, await wallet.lock(host), wallet)
        return await session.ask(
            COUNT,
            max_tokens=NUM_TOKENS,
            stop=stop,
            # Not the first receipt: at the second one the host may go no further.
            acknowledges=lambda r: r.cumulative_tokens >= MAX_UNACKNOWLEDGED_TOKENS,
            late=LATE if stop else 0,
        )

    whole = await count()
    pieces = [frame for frame in whole.frames if isinstance(frame, EncryptedChunk)]
    ends = list(accumulate(piece.tokens for piece in pieces))
    begin = sum(end <= MAX_UNACKNOWLEDGED_TOKENS - 7 for end in ends)
    stop = "".join(whole.texts[begin : begin + 16])

    stopped = await count(stop)
    other = await count(stop + "#")

    assert whole.tokens == NUM_TOKENS
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.find(stop)]
    assert other.finish_reason == "length"
    assert other.text == whole.text
