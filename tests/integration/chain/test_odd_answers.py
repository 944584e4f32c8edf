"""Whatever an RPC answers becomes a ChainError that names method and endpoint, never its key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from aiohttp import web
from tests.integration.chain.altering_rpc import (
    KEY,
    Answer,
    at_first,
    mostly_nonsense,
    open_altering_rpc,
    refused,
    replaced,
)
from tests.integration.chain.conftest import IMPATIENT

from fabstir.chain.anvil import DEV_CHAIN_ID, open_anvil
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall, LogFilter
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import open_transaction_queue
from fabstir.db import Database
from fabstir.primitives.errors import ChainError, RpcMalformed, RpcRefused, RpcUnavailable
from fabstir.primitives.ids import Address, Hash32
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NOBODY = Address("0x" + "99" * 20)
TX_HASH = Hash32("0x" + "ab" * 32)
CALL = ContractCall(to=NOBODY, data=b"\1\2\3\4", description="asking nobody")

ASKING: dict[str, Callable[[Chain], Awaitable[object]]] = {
    "eth_blockNumber": lambda chain: chain.block_number(),
    "eth_getBlockByNumber": lambda chain: chain.latest_block(),
    "eth_getBalance": lambda chain: chain.balance(NOBODY),
    "eth_getTransactionCount": lambda chain: chain.nonce(NOBODY),
    "eth_getCode": lambda chain: chain.code(NOBODY),
    "eth_call": lambda chain: chain.read(CALL),
    "eth_estimateGas": lambda chain: chain.estimate_gas(CALL, NOBODY),
    "eth_getTransactionReceipt": lambda chain: chain.receipt(TX_HASH),
    "eth_getLogs": lambda chain: chain.logs(LogFilter(addresses=(NOBODY,)), 0, 0),
}

ODD: list[Any] = [None, 7, True, -1.5, "", "0x", "0xzz", "latest", [], [None], {}, {"number": None}]
LEGAL: dict[str, list[Any]] = {
    "eth_getCode": ["0x"],
    "eth_call": ["0x"],
    "eth_getTransactionReceipt": [None, {}, {"number": None}],  # in no block yet
    "eth_getLogs": [[]],
}


def odd_answers() -> list[tuple[str, Any]]:
    pairs = [(method, odd) for method in ASKING for odd in ODD]
    pairs += [("eth_blockNumber", "0x" + "f" * 60), ("eth_getCode", "0x123")]
    pairs += [("eth_getLogs", [{"address": None, "topics": None}])]
    return [
        (m, odd) for m, odd in pairs if not any(odd is ok or odd == ok for ok in LEGAL.get(m, []))
    ]


@pytest.fixture(scope="module")
async def upstream(anyio_backend: str) -> AsyncGenerator[str]:
    async with open_anvil() as url:
        yield url


@pytest.mark.parametrize(("method", "odd"), odd_answers())
async def test_an_odd_result_is_named_with_method_and_endpoint(
    upstream: str, method: str, odd: Any
) -> None:
    async with (
        open_altering_rpc(upstream, replaced(method, odd)) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.001,)) as chain,
    ):
        with pytest.raises(ChainError) as caught:
            await ASKING[method](chain)

    assert method in str(caught.value)
    assert chain.shown_url in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"3",
        b'"text"',
        b"[" * 100_000,
        b'{"result": ' * 50_000,
        b"\xff\xfe",
        b'{"error": "down"}',
        b'{"error": []}',
        b'{"error": {}}',
        b'{"jsonrpc": "2.0", "id": 1}',
    ],
    ids=range(11),
)
async def test_a_body_that_is_no_answer_is_named(upstream: str, body: bytes) -> None:
    def alter(method: str, _params: list[Any], answer: Answer) -> Answer | web.Response:
        is_it = method == "eth_blockNumber"
        return (
            web.Response(body=body, headers={"Content-Type": "x; charset=y"}) if is_it else answer
        )

    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.001,)) as chain,
    ):
        with pytest.raises(RpcUnavailable, match="eth_blockNumber") as caught:
            await chain.block_number()

    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "code", [-32007, -32005, -32016, 429, -32029, -32090, -32603, -32001, 1015, "-32007", None]
)
@pytest.mark.parametrize("method", ["eth_blockNumber", "eth_call", "eth_estimateGas"])
async def test_a_refusal_that_may_pass_is_tried_again_by_its_code(
    upstream: str, method: str, code: Any
) -> None:
    alter = at_first(2, refused({method}, code, "zu viele Anfragen"), method)
    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.001, 0.001)) as chain,
    ):
        await ASKING[method](chain)


@pytest.mark.parametrize("code", [-32601, -32602, -32600, -32000, -32003])
async def test_a_refusal_for_good_is_told_at_once(upstream: str, code: int) -> None:
    asked: list[str] = []

    def alter(method: str, params: list[Any], answer: Answer) -> Answer:
        asked.append(method)
        return refused({"eth_estimateGas"}, code, f"no: see http://x/v2/{KEY}")(
            method, params, answer
        )

    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
    ):
        with pytest.raises(RpcRefused, match=f"code {code}") as caught:
            await chain.estimate_gas(CALL, NOBODY)

    assert asked.count("eth_estimateGas") == 1
    assert chain.shown_url in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.code == code


async def test_an_endpoint_that_counts_requests_is_left_alone_as_long_as_it_asks(
    upstream: str,
) -> None:
    answers = iter([429, 503, 408])

    def alter(method: str, _params: list[Any], answer: Answer) -> Answer | web.Response:
        status = next(answers, None) if method == "eth_blockNumber" else None
        return answer if status is None else web.Response(status=status, text="wait")

    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.001,) * 3) as chain,
    ):
        assert await chain.block_number() == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("0x08c379a0" + f"{32:064x}{2:064x}" + "6e6f".ljust(64, "0"), "no"),
        ({"data": "0x08c379a0" + f"{32:064x}{2:064x}" + "6e6f".ljust(64, "0")}, "no"),
        ("0x08c379a0" + f"{32:064x}{2:064x}" + "fffe".ljust(64, "0"), "\ufffd\ufffd"),
        ("0x08c379a0" + "f" * 64, "unknown error"),
        ("0xzz", "execution reverted"),
        (["0x"], "execution reverted"),
    ],
)
async def test_a_contracts_refusal_is_read_however_it_is_wrapped(
    upstream: str, data: Any, reason: str
) -> None:
    def alter(method: str, _params: list[Any], answer: Answer) -> Answer:
        error = {"code": 3, "message": "execution reverted", "data": data}
        return {"id": 1, "error": error} if method == "eth_call" else answer

    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
    ):
        with pytest.raises(ChainError, match=f"asking nobody .*{reason}"):
            await chain.read(CALL)


ANVILS_FEE = 10**9


@pytest.mark.parametrize("code", [-32601, -32004, -32000])
@pytest.mark.parametrize(
    "missing",
    [
        {"eth_maxPriorityFeePerGas"},
        {"eth_feeHistory"},
        {"eth_maxPriorityFeePerGas", "eth_feeHistory", "web3_clientVersion"},
    ],
)
async def test_fees_are_known_without_the_methods_for_them(
    upstream: str, missing: set[str], code: int
) -> None:
    async with (
        open_altering_rpc(upstream, refused(missing, code)) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
        open_chain(upstream, chain_id=DEV_CHAIN_ID) as whole,
    ):
        fees, known = await chain.fees(), await whole.fees()
        price = await chain.gas_price()

    assert 0 < fees.max_priority_fee_per_gas <= known.max_priority_fee_per_gas
    assert known.max_fee_per_gas // 2 <= fees.max_fee_per_gas <= 2 * known.max_fee_per_gas
    assert price < fees.max_fee_per_gas


@pytest.mark.parametrize("odd", [None, {}, [], {"baseFeePerGas": None}, {"baseFeePerGas": []}])
async def test_an_odd_fee_history_is_done_without(upstream: str, odd: Any) -> None:
    async with (
        open_altering_rpc(upstream, replaced("eth_feeHistory", odd)) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=()) as chain,
    ):
        assert (await chain.fees()).max_fee_per_gas > 0


async def test_a_method_that_answered_oddly_once_is_asked_again(upstream: str) -> None:
    method = "eth_maxPriorityFeePerGas"
    altered = at_first(1, replaced(method, []), method)
    async with (
        open_altering_rpc(upstream, altered) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=()) as chain,
        open_chain(upstream, chain_id=DEV_CHAIN_ID) as whole,
    ):
        await chain.fees()

        assert (await chain.fees()) == (await whole.fees())


async def test_without_a_pending_block_the_newest_tells_the_base_fee(upstream: str) -> None:
    def alter(method: str, params: list[Any], answer: Answer) -> Answer:
        if method == "eth_getBlockByNumber" and params[0] == "pending":
            return {**answer, "result": None}
        return refused({"eth_feeHistory"}, -32601)(method, params, answer)

    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
    ):
        block = await chain.request("eth_getBlockByNumber", ["latest", False])
        base = int(block["baseFeePerGas"], 16)
        fees = await chain.fees()

    assert fees.max_fee_per_gas - fees.max_priority_fee_per_gas >= 2 * base


async def test_a_chain_without_base_fees_is_named(upstream: str) -> None:
    def alter(method: str, params: list[Any], answer: Answer) -> Answer:
        if method == "eth_getBlockByNumber":
            del answer["result"]["baseFeePerGas"]
        return refused({"eth_feeHistory"}, -32601)(method, params, answer)

    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=()) as chain,
    ):
        with pytest.raises(ChainError, match="tells no base fee"):
            await chain.fees()


def without_price(method: str, params: list[Any], answer: Answer) -> Answer:
    if method == "eth_getTransactionReceipt" and answer["result"]:
        del answer["result"]["effectiveGasPrice"]
    return answer


def without_any_price(method: str, params: list[Any], answer: Answer) -> Answer:
    if method == "eth_getTransactionByHash":
        return {**answer, "result": None}
    return without_price(method, params, answer)


@pytest.mark.parametrize("alter", [without_price, without_any_price])
async def test_a_receipt_without_a_price_settles_the_transaction(
    rpc_url: str, signer: Signer, db: Database, alter: Any
) -> None:
    async with (
        open_altering_rpc(rpc_url, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
        open_transaction_queue(chain, signer, db, IMPATIENT) as queue,
    ):
        before = await chain.balance(signer.address)
        mined = await queue.send("k", ContractCall(to=NOBODY, data=b"", description="paying"))
        paid = before - await chain.balance(signer.address)

    assert mined.fee == paid if alter is without_price else mined.fee >= paid


async def test_a_transaction_survives_a_day_of_odd_answers(
    rpc_url: str, signer: Signer, db: Database
) -> None:
    """Every method is answered with nonsense in turn; what was sent is sent once, and found."""
    async with (
        open_altering_rpc(rpc_url, mostly_nonsense()) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.001,) * 5) as chain,
        open_transaction_queue(chain, signer, db, IMPATIENT) as queue,
    ):
        call = ContractCall(to=NOBODY, data=b"", value=Wei(5), description="paying")
        await queue.send("k", call)

    async with open_chain(rpc_url, chain_id=DEV_CHAIN_ID) as direct:
        assert await direct.balance(NOBODY) == 5
        assert await direct.nonce(signer.address) == 1


async def test_what_has_no_receipt_yet_is_not_sent_again(
    rpc_url: str, signer: Signer, db: Database
) -> None:
    """A node that indexes answers null, long after the account's nonce has risen."""
    first_asked: list[float] = []

    def alter(method: str, _params: list[Any], answer: Answer) -> Answer:
        if method != "eth_getTransactionReceipt" or answer["result"] is None:
            return answer
        first_asked.append(anyio.current_time())
        is_indexed = anyio.current_time() > first_asked[0] + 3 * IMPATIENT.stuck_after
        return answer if is_indexed else {**answer, "result": None}

    async with (
        open_altering_rpc(rpc_url, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
        open_transaction_queue(chain, signer, db, IMPATIENT) as queue,
    ):
        call = ContractCall(to=NOBODY, data=b"", value=Wei(5), description="paying")
        await queue.send("k", call)

    async with open_chain(rpc_url, chain_id=DEV_CHAIN_ID) as direct:
        assert await direct.balance(NOBODY) == 5
        assert await direct.nonce(signer.address) == 1


async def test_what_is_malformed_is_asked_again(upstream: str) -> None:
    alter = at_first(2, replaced("eth_blockNumber", None), "eth_blockNumber")
    async with (
        open_altering_rpc(upstream, alter) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.001, 0.001)) as chain,
    ):
        assert await chain.block_number() == 0


async def test_an_endless_answer_is_left(upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabstir.chain._endpoint.MAX_ANSWER_BYTES", 10_000)
    async with (
        open_altering_rpc(upstream, replaced("eth_getCode", "0x" + "00" * 10_000)) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=()) as chain,
    ):
        with pytest.raises(RpcUnavailable, match="longer than 10000 bytes"):
            await chain.code(NOBODY)


async def test_a_malformed_answer_shows_what_came(upstream: str) -> None:
    async with (
        open_altering_rpc(upstream, replaced("eth_blockNumber", f"see {KEY}")) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=()) as chain,
    ):
        with pytest.raises(RpcMalformed, match=r"'see \.\.\.' instead of a quantity"):
            await chain.block_number()
