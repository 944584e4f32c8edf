"""The identity's file, and the words that bring one in."""

import hashlib
import threading
from pathlib import Path

import pytest

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import KeystoreError
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.identities.identity import (
    S5_WORD_LIST_SHA256,
    identity_phrase,
    import_identity,
    load_identity,
    load_or_create_identity,
    load_word_list,
    read_identity,
)

DATA = Path(__file__).resolve().parents[5] / "shared" / "data"
WORD_LIST = DATA / "s5-words.txt"
IDENTITY = Identity(bytes(range(16)), NATIVE)

needs_word_list = pytest.mark.skipif(
    not WORD_LIST.exists(), reason="../shared/data/s5-words.txt is not there"
)


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s5.identity"

    made = load_or_create_identity(path, NATIVE)

    assert load_or_create_identity(path, NATIVE) == made == load_identity(path, NATIVE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == made.entropy.hex() + "\n"
    assert [file.name for file in path.parent.iterdir()] == ["s5.identity"]


def test_whoever_makes_it_at_the_same_time_gets_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s5.identity"
    made: list[Identity] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.append(load_or_create_identity(path, NATIVE))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({identity.entropy for identity in made}) == 1
    assert len(made) == 8


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s5.identity"
    (tmp_path / ".s5.identity-abc.part").write_text("half")

    load_or_create_identity(path, NATIVE)

    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s5.identity"
    load_or_create_identity(path, NATIVE)
    path.chmod(0o640)

    with pytest.raises(KeystoreError, match=r"mode 0640.*chmod 600"):
        load_or_create_identity(path, NATIVE)


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"secret" * 20])
def test_a_file_that_holds_no_identity_is_kept_and_not_shown(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "s5.identity"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(KeystoreError, match="holds no S5 identity") as caught:
        load_or_create_identity(path, NATIVE)

    assert caught.value.__suppress_context__
    assert "secret" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(KeystoreError, match=r"cannot be written.*s5\.identity"):
        load_or_create_identity(tmp_path / "file" / "s5.identity", NATIVE)
    with pytest.raises(KeystoreError, match=r"cannot be read.*s5\.identity"):
        load_identity(tmp_path / "none", NATIVE)


def test_an_import_writes_the_same_identity_and_overwrites_none(tmp_path: Path) -> None:
    path = tmp_path / "s5.identity"

    assert import_identity(path, identity_phrase(IDENTITY), NATIVE) == IDENTITY
    assert load_identity(path, NATIVE) == IDENTITY
    with pytest.raises(KeystoreError, match="exists already"):
        import_identity(path, "00" * 16, NATIVE)
    assert load_identity(path, NATIVE) == IDENTITY


@pytest.mark.parametrize("text", [IDENTITY.entropy.hex(), f"0x{IDENTITY.entropy.hex()}\n"])
def test_entropy_is_read(text: str) -> None:
    assert read_identity(text, NATIVE) == IDENTITY


def test_a_wrong_word_is_named() -> None:
    words = identity_phrase(IDENTITY).split()

    with pytest.raises(KeystoreError, match=r"word 1 .* did you mean abandon"):
        read_identity(" ".join(["abandom", *words[1:]]), NATIVE)
    with pytest.raises(KeystoreError, match="it has 2 words"):
        read_identity("two words", NATIVE)


def test_fifteen_words_need_the_list(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="--wordlist"):
        read_identity("word " * 15, NATIVE)
    with pytest.raises(KeystoreError, match="cannot be read"):
        read_identity("word " * 15, NATIVE, word_list=tmp_path / "none")


def test_another_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("word\n" * 1024)

    with pytest.raises(KeystoreError, match=f"S5's word list {S5_WORD_LIST_SHA256}"):
        load_word_list(path)


@needs_word_list
def test_s5s_own_list_is_the_pinned_one() -> None:
    words = load_word_list(WORD_LIST)

    assert hashlib.sha256(WORD_LIST.read_bytes()).hexdigest() == S5_WORD_LIST_SHA256
    assert len({word[:3] for word in words}) == len(words) == 1024
    phrase = identity_phrase(IDENTITY, word_list=WORD_LIST)
    assert len(phrase.split()) == 15
    assert read_identity(phrase, NATIVE, word_list=WORD_LIST) == IDENTITY
