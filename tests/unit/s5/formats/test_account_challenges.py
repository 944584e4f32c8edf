"""Making and entering accounts at portals."""

from dataclasses import replace

import pytest

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.account import (
    ChallengeKind,
    portal_authority,
    sign_challenge,
    verify_challenge,
)

SEED = b"\x01" * 32
PUBLIC_KEY = NATIVE.ed25519_public_key(SEED)
CHALLENGE = b"\x02" * 32
REGISTER, LOGIN = ChallengeKind.REGISTER, ChallengeKind.LOGIN


@pytest.mark.parametrize("kind", ChallengeKind)
def test_an_answer_is_65_bytes_and_verifies(kind: ChallengeKind) -> None:
    answer = sign_challenge(SEED, kind, CHALLENGE, "s5.example", NATIVE)

    assert answer.response == bytes([kind]) + CHALLENGE + NATIVE.blake3(b"s5.example")
    assert len(answer.response) == 65
    verify_challenge(PUBLIC_KEY, answer, kind, CHALLENGE, "s5.example", NATIVE)


def test_an_answer_serves_for_nothing_else() -> None:
    answer = sign_challenge(SEED, REGISTER, CHALLENGE, "s5.example", NATIVE)

    for kind, challenge, authority in [
        (LOGIN, CHALLENGE, "s5.example"),
        (REGISTER, bytes(32), "s5.example"),
        (REGISTER, CHALLENGE, "evil.example"),
    ]:
        with pytest.raises(RemoteProtocolError, match="the response is not"):
            verify_challenge(PUBLIC_KEY, answer, kind, challenge, authority, NATIVE)


def test_an_answer_must_be_signed_by_the_key() -> None:
    answer = sign_challenge(SEED, LOGIN, CHALLENGE, "s5.example", NATIVE)
    others = NATIVE.ed25519_public_key(b"\x03" * 32)

    for key, given in [
        (others, answer),
        (PUBLIC_KEY, replace(answer, signature=bytes(64))),
        (b"", answer),
        (PUBLIC_KEY, replace(answer, signature=b"")),
    ]:
        with pytest.raises(RemoteProtocolError, match="not signed by the account's key"):
            verify_challenge(key, given, LOGIN, CHALLENGE, "s5.example", NATIVE)


def test_a_challenge_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 64"):
        sign_challenge(SEED, LOGIN, bytes(64), "s5.example", NATIVE)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://s5.example", "s5.example"),
        ("https://S5.Example:443/path", "s5.example"),
        ("http://127.0.0.1:5522", "127.0.0.1:5522"),
        ("http://s5.example:443", "s5.example:443"),
        ("http://[::1]:80/", "[::1]"),
        ("http://[::1]:5522", "[::1]:5522"),
        ("https://user:pass@s5.example", "s5.example"),
    ],
)
def test_a_portal_is_named_as_browsers_do(url: str, authority: str) -> None:
    assert portal_authority(url) == authority


@pytest.mark.parametrize("url", ["", "s5.example", "https://", "https://s5.example:x"])
def test_a_url_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"host|[Pp]ort"):
        portal_authority(url)
