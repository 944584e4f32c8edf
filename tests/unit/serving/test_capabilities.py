"""What an engine lacks is refused before anything is reserved or billed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from tests.idle_models import idle_model
from tests.unit.doors.hosting import JournalRail
from tests.unit.rails.test_next_action import row
from tests.unit.serving.test_live_session import live

from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import EngineUnavailable, RequestRefused
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.content import Message
from fabstir.protocol.request import ChatRequest, RequestPlaintext
from fabstir.protocol.sampling import SamplingParams
from fabstir.serving.answer import Answer, AnswerServices

pytestmark = pytest.mark.anyio

NO_LEDGER = cast("HostLedger", None)
SERVICES = cast(
    "AnswerServices", SimpleNamespace(rail=JournalRail(NO_LEDGER), acknowledgement_timeout=1.0)
)
"""There is no ledger: an answer that reserved or billed anything would raise another error."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask(can: set[ModelCapability], sampling: SamplingParams) -> None:
    journalled = row()
    session = live(journalled)
    session.model = idle_model(journalled.model_id, can=frozenset(can))
    request = ChatRequest(messages=(Message("user", "Hello"),), sampling=sampling)
    asked = RequestPlaintext(request=request, salt=bytes(32))
    answer = Answer(
        SERVICES,
        session,
        asked,
        has_receipts=True,
        sink=lambda _part: pytest.fail("nothing is sent"),
        has_room=lambda: True,
    )
    await answer.run()


async def test_what_the_engine_lacks_is_named() -> None:
    sampling = SamplingParams(max_tokens=8, seed=0, repeat_penalty=1.1)

    with pytest.raises(RequestRefused, match="needs min_p, repeat_penalty, which"):
        await ask({ModelCapability.TOP_K}, sampling)


async def test_what_is_not_asked_for_is_not_missed() -> None:
    sampling = SamplingParams(max_tokens=8, seed=0, min_p=0)

    with pytest.raises(EngineUnavailable, match="nothing is loaded"):
        await ask({ModelCapability.TOP_K}, sampling)
