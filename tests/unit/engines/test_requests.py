"""What an engine is never asked for, and how many threads are worth trying."""

import pytest

from fabstir.engines import GenerationRequest
from fabstir.engines.llamacpp.calibration import candidates
from fabstir.engines.llamacpp.launcher import ThreadCounts
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams

ASKED = (Message("user", "Hello"),)


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_a_request_for_no_token_or_endless_ones_is_refused(max_tokens: int) -> None:
    sampling = SamplingParams(max_tokens=max_tokens, seed=1)

    with pytest.raises(ValueError, match="at least 1"):
        GenerationRequest(messages=ASKED, sampling=sampling)


def test_a_request_without_a_message_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one message"):
        GenerationRequest(messages=(), sampling=SamplingParams(max_tokens=1, seed=1))


def test_a_request_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="its seed"):
        GenerationRequest(messages=ASKED, sampling=SamplingParams(max_tokens=1))


@pytest.mark.parametrize(
    ("num_cores", "decode"), [(1, [1]), (2, [2, 1]), (6, [6, 3]), (16, [16, 8, 4])]
)
def test_all_cores_are_tried_and_fewer(num_cores: int, decode: list[int]) -> None:
    assert candidates(num_cores) == [ThreadCounts(threads, num_cores) for threads in decode]
