"""The corpus passes, and a few thousand mutations of it."""

from pathlib import Path
from random import Random

import pytest
from tests.fuzz.__main__ import Finding, fuzz_round, main, try_input
from tests.fuzz.mutation import CORPUS, mutate, read_corpus
from tests.fuzz.targets import TARGETS

from fabstir.primitives.errors import RemoteProtocolError

NUM_INPUTS = 300
MAX_CORPUS_FILE_BYTES = 8 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_passes(name: str) -> None:
    corpus = read_corpus(name)

    assert corpus
    for data in corpus:
        try_input(name, TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_the_corpus_pass(name: str) -> None:
    fuzz_round(name, Random(f"0/{name}"), NUM_INPUTS)


def test_the_corpus_is_small_and_belongs_to_a_target() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]

    assert {path.parent.name for path in files} == set(TARGETS)
    assert [path for path in files if path.suffix != ".bin"] == []
    assert [path for path in files if path.stat().st_size > MAX_CORPUS_FILE_BYTES] == []


def test_the_same_seed_makes_the_same_inputs() -> None:
    corpus = read_corpus("client_message")
    runs = [[mutate(corpus, random) for _ in range(50)] for random in (Random("a"), Random("a"))]

    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 40


@pytest.mark.parametrize("error", [OverflowError, RecursionError, RemoteProtocolError])
def test_an_error_that_nobody_promised_is_a_finding(error: type[Exception]) -> None:
    def target(data: bytes) -> None:
        raise error(data.decode())

    with pytest.raises(Finding, match=error.__name__) as caught:
        try_input("broken", target, b"bytes")
    assert caught.value.data == b"bytes"


def test_the_command_runs_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "input.bin"
    saved.write_bytes(b'{"type":"ping"}')

    assert main(["0.01", "--target", "chunk", "--seed", "5"]) == 0
    assert "no finding" in capsys.readouterr().out
    assert main(["--input", str(saved)]) == 0


def test_the_command_keeps_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise OverflowError(len(data))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TARGETS, "chunk", broken)

    assert main(["5", "--target", "chunk"]) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".bin"]
