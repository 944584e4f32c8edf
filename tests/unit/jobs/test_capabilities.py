"""What an engine lacks is refused before anything is reserved or billed."""

from __future__ import annotations

from typing import cast

import pytest
from tests.idle_models import idle_model
from tests.unit.jobs.test_next_action import row

from fabstir.jobs.answer import Answer, AnswerServices
from fabstir.jobs.dialects import Dialect
from fabstir.jobs.session import LiveSession
from fabstir.primitives.errors import EngineUnavailable, RequestRefused
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.content import Message
from fabstir.protocol.request import ChatRequest, RequestPlaintext
from fabstir.protocol.sampling import SamplingParams

pytestmark = pytest.mark.anyio

NO_SERVICES = cast("AnswerServices", None)
"""There is no ledger: an answer that reserved or billed anything would raise another error."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask(can: set[ModelCapability], sampling: SamplingParams) -> None:
    journalled = row()
    model = idle_model(journalled.model_id, can=frozenset(can))
    session = LiveSession(row=journalled, model=model, seed_nonce=bytes(32))
    request = ChatRequest(messages=(Message("user", "Hello"),), sampling=sampling)
    asked = RequestPlaintext(request=request, salt=bytes(32))
    dialect = cast("Dialect", None)  # nothing is sent
    await Answer(NO_SERVICES, session, dialect, asked, None, lambda _make: None, bool).run()


async def test_what_the_engine_lacks_is_named() -> None:
    sampling = SamplingParams(max_tokens=8, seed=0, repeat_penalty=1.1)

    with pytest.raises(RequestRefused, match="needs min_p, repeat_penalty, which"):
        await ask({ModelCapability.TOP_K}, sampling)


async def test_what_is_not_asked_for_is_not_missed() -> None:
    sampling = SamplingParams(max_tokens=8, seed=0, min_p=0)

    with pytest.raises(EngineUnavailable, match="nothing is loaded"):
        await ask({ModelCapability.TOP_K}, sampling)
