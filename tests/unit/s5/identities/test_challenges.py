"""Challenges are single-use, expire, and cost nothing until they are answered."""

from __future__ import annotations

import pytest

from fabstir.primitives.errors import AccessDenied, Busy
from fabstir.s5.formats.account import CHALLENGE_BYTES, ChallengeKind
from fabstir.s5.identities import challenges as module
from fabstir.s5.identities.challenges import CHALLENGE_SECONDS, Challenges

KEY, OTHER = b"\1" * 32, b"\2" * 32
LOGIN, REGISTER = ChallengeKind.LOGIN, ChallengeKind.REGISTER


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def challenges(clock: Clock) -> Challenges:
    return Challenges(clock=clock)


def test_once(challenges: Challenges) -> None:
    challenge = challenges.issue(LOGIN, KEY)

    assert len(challenge) == CHALLENGE_BYTES
    challenges.check(LOGIN, KEY, challenge)
    challenges.redeem(challenge)
    with pytest.raises(AccessDenied, match="answered before"):
        challenges.check(LOGIN, KEY, challenge)


def test_for_one_key_and_purpose(challenges: Challenges) -> None:
    challenge = challenges.issue(LOGIN, KEY)

    for kind, key in ((REGISTER, KEY), (LOGIN, OTHER)):
        with pytest.raises(AccessDenied):
            challenges.check(kind, key, challenge)
    assert challenge != challenges.issue(LOGIN, KEY)


def test_made_by_this_process(challenges: Challenges, clock: Clock) -> None:
    challenge = Challenges(clock=clock).issue(LOGIN, KEY)

    for forged in (challenge, bytes(CHALLENGE_BYTES), b"", challenge + b"\0"):
        with pytest.raises(AccessDenied):
            challenges.check(LOGIN, KEY, forged)


@pytest.mark.parametrize("index", [0, 7, 8, 15, 16, 31])
def test_every_byte_counts(challenges: Challenges, index: int) -> None:
    challenge = bytearray(challenges.issue(LOGIN, KEY))
    challenge[index] ^= 1

    with pytest.raises(AccessDenied):
        challenges.check(LOGIN, KEY, bytes(challenge))


def test_they_expire(challenges: Challenges, clock: Clock) -> None:
    challenge = challenges.issue(LOGIN, KEY)

    clock.now += CHALLENGE_SECONDS

    with pytest.raises(AccessDenied, match="too old"):
        challenges.check(LOGIN, KEY, challenge)


def test_redeemed_ones_are_bounded_and_forgotten(
    challenges: Challenges, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REDEEMED", 3)
    for _ in range(3):
        challenges.redeem(challenges.issue(LOGIN, KEY))

    with pytest.raises(Busy):
        challenges.redeem(challenges.issue(LOGIN, KEY))

    clock.now += CHALLENGE_SECONDS
    challenges.redeem(challenges.issue(LOGIN, KEY))
