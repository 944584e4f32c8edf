"""The error tree is the one that its module draws, and errors carry their facts."""

import inspect
import re

import pytest

from fabstir.primitives import errors


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"( *)([A-Z]\w+)(  |$)", line)
        if found is None:
            continue
        depth = len(found[1]) // 2
        above[depth:] = [found[2]]
        drawn.append((found[2], above[depth - 1] if depth else "Exception"))

    real = [
        (name, kind.__base__.__name__ if kind.__base__ else "")
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    ]

    assert sorted(drawn) == sorted(real)


@pytest.mark.parametrize(
    ("error", "facts", "words"),
    [
        (errors.RemoteProtocolError("bad"), {"code": "INVALID_PAYLOAD"}, ["bad"]),
        (errors.RemoteProtocolError("bad", code="X"), {"code": "X"}, ["bad"]),
        (errors.SessionRefused("BUSY", "wait"), {"code": "BUSY"}, ["wait"]),
        (
            errors.ContextLengthExceeded(9, 8),
            {"num_prompt_tokens": 9, "max_model_len": 8},
            ["9 tokens", "8", "shorten"],
        ),
        (
            errors.ModelHashMismatch("a.gguf", "e1", "a1"),
            {"path": "a.gguf", "expected": "e1", "actual": "a1"},
            ["a.gguf", "e1", "a1", "fetch"],
        ),
        (
            errors.WrongChain("http://rpc", 1, 2),
            {"rpc_url": "http://rpc", "expected": 1, "actual": 2},
            ["http://rpc", "1", "2", "chain.rpc_url"],
        ),
        (
            errors.NoCodeAtAddress("ProofSystem", "0xab", 5),
            {"contract": "ProofSystem", "address": "0xab", "chain_id": 5},
            ["ProofSystem", "0xab", "chain 5", "deploy"],
        ),
        (
            errors.RpcRefused("eth_call", -32000, "no"),
            {"method": "eth_call", "code": -32000, "reason": "no", "data": ""},
            ["eth_call", "no", "-32000"],
        ),
        (
            errors.InsufficientFunds("0xab", 15 * 10**17, 10**18, "ETH", decimals=18),
            {"account": "0xab", "needed": 15 * 10**17, "available": 10**18},
            ["0xab has 1 ETH", "needs 1.5 ETH", "at least 0.5 ETH"],
        ),
        (
            errors.InsufficientFunds("0xab", 10, 4, "wei"),
            {"account": "0xab", "needed": 10, "available": 4},
            ["0xab", "10", "4 wei", "6 wei"],
        ),
        (
            errors.TransactionReverted("claim", "Not host"),
            {"action": "claim", "reason": "Not host", "tx_hash": None},
            ["claim", "Not host"],
        ),
        (
            errors.TransactionReverted("claim", "no", "0x1"),
            {"tx_hash": "0x1"},
            ["(transaction 0x1)"],
        ),
        (errors.NoHostFound("none"), {"rejected": {}}, ["none"]),
        (errors.NoHostFound("none", {"a": "dear"}), {"rejected": {"a": "dear"}}, ["none"]),
    ],
)
def test_errors_carry_their_facts_and_name_the_fix(
    error: errors.FabstirError, facts: dict[str, object], words: list[str]
) -> None:
    assert {name: getattr(error, name) for name in facts} == facts
    assert [word for word in words if word not in str(error)] == []
