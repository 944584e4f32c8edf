"""What a host keeps of a session in memory stays within bounds."""

from tests.idle_models import idle_model
from tests.unit.rails.test_next_action import row

from fabstir.db.host_sessions import SessionRow
from fabstir.protocol.content import Message
from fabstir.protocol.exchange.account import HostAccount
from fabstir.serving.session import MAX_TRANSCRIPT_CHARS, LiveSession


def live(journalled: SessionRow) -> LiveSession:
    account = HostAccount(
        job_id=journalled.job_id,
        deposit=journalled.deposit,
        price_per_token=journalled.price_per_token,
        signer=journalled.depositor,
    )
    model = idle_model(journalled.model_id)
    return LiveSession(row=journalled, model=model, account=account, seed_nonce=bytes(32))


def test_prompts_that_cost_nothing_fill_no_memory() -> None:
    session = live(row(recovery_public_key=b"\2" + bytes(32)))

    for number in range(100):
        session.note(Message("user", f"{number:03}" + "x" * (MAX_TRANSCRIPT_CHARS // 10)), 0)

    kept = [each.message.text for each in session.transcript]
    assert sum(map(len, kept)) <= MAX_TRANSCRIPT_CHARS
    assert kept[-1].startswith("099")


def test_nothing_is_kept_that_nobody_could_open() -> None:
    session = live(row())

    session.note(Message("user", "Hello"), 0)

    assert session.transcript == []
