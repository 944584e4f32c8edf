"""Where between deposit and settlement a host may die: how to get there, and what comes after.

A point is not timed: it is held open by a relay that swallows what the host was about to send or
be told, by a chain that makes no blocks, or recognised in the host's own journal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from tests.e2e.crashing import Scene

from fabstir.db.claims import ClaimState
from fabstir.primitives.units import TokenCount
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS

PROOF_INTERVAL = TokenCount(200)
"""So that a claim is due in the middle of an answer of 300 tokens."""

SEND, CONFIRM = b"eth_sendRawTransaction", b"eth_getTransactionReceipt"
"""With what a host tells its chain of a transaction, and asks after it."""

ESTIMATE = b"eth_estimateGas"
"""What is asked only once a transaction is made; whether it is worth it was asked before."""

LONG_PROMPT = "the sea and the lighthouse " * 120
"""Takes long enough to read that nothing is said of it yet when the host dies."""


class Then(Enum):
    """What the renter does once the host is dead."""

    GO_ON = auto()
    """It asks the restarted host for more, and closes."""
    CLOSE = auto()
    """It reconnects only to close."""
    STAY = auto()
    """It was closing already, and waits."""
    LEAVE = auto()
    """It was closing already, and its app is quit: the host must settle alone."""


# -- the kill points --------------------------------------------------------------------------


async def deposit_unheard(scene: Scene) -> None:
    assert scene.journal.row() is None


async def deposit_heard(scene: Scene) -> None:
    await scene.until(lambda: scene.journal.row() is not None)


async def init_admitted(scene: Scene) -> None:
    scene.start_answer(prompt=LONG_PROMPT)
    await scene.until(lambda: (row := scene.journal.row()) is not None and row.signer)


async def first_tokens(scene: Scene) -> None:
    scene.start_answer()
    await scene.until_tokens(3)


async def receipt_lost(scene: Scene) -> None:
    """Journalled by the host, and never seen by the renter."""
    scene.start_answer()
    await scene.until_tokens(1)
    scene.host.to_renters.hold_answers()
    first_window = RECEIPT_INTERVAL_TOKENS + MAX_UNACKNOWLEDGED_TOKENS
    await scene.until(
        lambda: (row := scene.journal.row()) is not None and row.tokens_reserved >= first_window
    )
    assert scene.num_receipts == 0


async def acknowledgement_lost(scene: Scene) -> None:
    """Journalled by the renter, and never seen by the host."""
    scene.start_answer()
    await scene.until_tokens(1)
    scene.host.to_renters.hold_requests()
    await scene.until(lambda: scene.num_receipts)
    assert scene.journal.tokens_agreed() == 0


async def acknowledged(scene: Scene) -> None:
    scene.start_answer()
    await scene.until(lambda: scene.journal.tokens_agreed() >= RECEIPT_INTERVAL_TOKENS)


async def second_window(scene: Scene) -> None:
    """Between two receipts: some tokens are agreed to, more are delivered."""
    scene.start_answer()
    await scene.until_tokens(RECEIPT_INTERVAL_TOKENS + 20)


async def idle(scene: Scene) -> None:
    """The answer is complete, and the next question not asked."""
    await scene.answer(80)
    await scene.until(lambda: scene.journal.tokens_agreed() == scene.session.tokens)


async def interim_claim_unsent(scene: Scene) -> None:
    """In the middle of an answer, whose first tokens are being claimed."""
    scene.host.to_chain.hold_requests(SEND)
    scene.start_answer()
    await scene.until_held()
    assert scene.journal.claims(ClaimState.PLANNED)


async def claim_planned(scene: Scene) -> None:
    await scene.answer(80)
    scene.host.to_chain.hold_requests(ESTIMATE)
    scene.start_close()
    await scene.until_planned()
    assert scene.journal.transaction("proof:0") is None


async def claim_signed(scene: Scene) -> None:
    """Stored in the outbox, and not sent."""
    await scene.answer(80)
    scene.host.to_chain.hold_requests(SEND)
    scene.start_close()
    await scene.until_held()
    assert scene.journal.transaction("proof:0") is not None


async def claim_signed_twice(scene: Scene) -> None:
    """At the same place again after its restart."""
    await claim_signed(scene)
    await scene.host.kill()
    scene.host.to_chain.hold_requests(SEND)
    await scene.host.start()
    await scene.until_held()


async def claim_sent(scene: Scene) -> None:
    """Waits for a block."""
    await scene.answer(80)
    await scene.stop_blocks()
    scene.start_close()
    await scene.until_sent()


async def claim_mined(scene: Scene) -> None:
    """On chain, and the host does not know it."""
    await scene.answer(80)
    scene.host.to_chain.hold_requests(CONFIRM)
    scene.start_close()
    await scene.until_paid()
    assert scene.journal.claims(ClaimState.PLANNED)


async def claimed(scene: Scene) -> None:
    """Known to be on chain; the session waits for its dispute window."""
    await scene.answer(80)
    scene.start_close()
    await scene.until_claimed()


async def settlement_signed(scene: Scene) -> None:
    await claimed(scene)
    scene.host.to_chain.hold_requests(SEND)
    await scene.until_held()
    assert scene.journal.transaction("complete") is not None


async def settlement_sent(scene: Scene) -> None:
    await claimed(scene)
    await scene.stop_blocks()
    await scene.until_sent()


async def settlement_mined(scene: Scene) -> None:
    await claimed(scene)
    scene.host.to_chain.hold_requests(CONFIRM)
    await scene.until_over()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to die.

    Attributes:
        has_no_chain: the host hears nothing of its chain from before the deposit on.
        blocks_come_late: while it is started again, the chain still makes no blocks.
    """

    name: str
    reach: Callable[[Scene], Awaitable[None]]
    then: Then
    has_no_chain: bool = False
    blocks_come_late: bool = False


CASES = (
    Case(
        name="deposit mined, unheard of",
        reach=deposit_unheard,
        then=Then.GO_ON,
        has_no_chain=True,
    ),
    Case(name="deposit heard of", reach=deposit_heard, then=Then.CLOSE),
    Case(name="init admitted", reach=init_admitted, then=Then.GO_ON),
    Case(name="first tokens", reach=first_tokens, then=Then.GO_ON),
    Case(name="receipt lost on its way", reach=receipt_lost, then=Then.GO_ON),
    Case(name="acknowledgement lost, goes on", reach=acknowledgement_lost, then=Then.GO_ON),
    Case(name="acknowledgement lost, closes", reach=acknowledgement_lost, then=Then.CLOSE),
    Case(name="acknowledged, streaming", reach=acknowledged, then=Then.CLOSE),
    Case(name="second window", reach=second_window, then=Then.GO_ON),
    Case(name="idle, goes on", reach=idle, then=Then.GO_ON),
    Case(name="idle, closes", reach=idle, then=Then.CLOSE),
    Case(name="interim claim unsent", reach=interim_claim_unsent, then=Then.GO_ON),
    Case(name="claim planned", reach=claim_planned, then=Then.STAY),
    Case(name="claim signed", reach=claim_signed, then=Then.LEAVE),
    Case(name="claim signed, twice", reach=claim_signed_twice, then=Then.STAY),
    Case(name="claim sent, mined meanwhile", reach=claim_sent, then=Then.LEAVE),
    Case(
        name="claim sent, mined after restart",
        reach=claim_sent,
        then=Then.STAY,
        blocks_come_late=True,
    ),
    Case(name="claim mined, unknown", reach=claim_mined, then=Then.LEAVE),
    Case(name="claimed, renter stays", reach=claimed, then=Then.STAY),
    Case(name="claimed, renter leaves", reach=claimed, then=Then.LEAVE),
    Case(name="settlement signed", reach=settlement_signed, then=Then.LEAVE),
    Case(name="settlement sent", reach=settlement_sent, then=Then.LEAVE),
    Case(name="settlement mined, unknown", reach=settlement_mined, then=Then.STAY),
)
