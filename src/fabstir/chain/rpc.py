"""The chain's JSON-RPC node, checked when it is opened and typed from there on.

Over aiohttp, not web3.py's AsyncHTTPProvider: for each request that one takes a lock of the whole
process in a thread, and a task that is cancelled meanwhile (a timeout is enough) leaves it taken
for ever. Measured with web3 8.0.0: after the first cancelled group of requests no other was
answered. It also opens a connection for each request: 0.48 ms against 0.16 ms. And not over httpx,
whose requests take four times the processor and more (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp

from fabstir.chain._endpoint import RETRY_DELAYS_SECONDS, RpcEndpoint
from fabstir.chain._fees import FeeMarket
from fabstir.chain.abi import load_abi, revert_reason
from fabstir.chain.deployment import Deployment
from fabstir.chain.records import (
    Block,
    ContractCall,
    Fees,
    Log,
    LogFilter,
    TransactionReceipt,
    or_none,
    parse_block,
    parse_count,
    parse_data,
    parse_gas_price,
    parse_logs,
    parse_object,
    parse_quantity,
    parse_receipt,
)
from fabstir.primitives.errors import (
    ChainError,
    NoCodeAtAddress,
    RpcMalformed,
    RpcRefused,
    TransactionReverted,
    WrongChain,
)
from fabstir.primitives.ids import Address, ChainId, Hash32
from fabstir.primitives.units import PRICE_PRECISION, Wei

_EXECUTION_REVERTED = 3
"""The error code of a revert in eth_call and eth_estimateGas (geth, anvil, reth)."""

_SELECTOR_BYTES = 4
"""Every revert that gives a reason begins with one."""

T = TypeVar("T")

BlockTag = int | str
"""A height, or "latest", "safe", "finalized", "pending"."""


class Chain:
    """One chain, reached through one RPC endpoint. Made by `open_chain`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        rpc_url: str,
        chain_id: ChainId,
        retry_delays: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> None:
        self.session = session
        self.rpc_url = rpc_url
        self.chain_id = chain_id
        self._endpoint = RpcEndpoint(session, rpc_url, retry_delays)
        self._fees = FeeMarket(self._endpoint)

    @property
    def shown_url(self) -> str:
        """The URL as errors and logs show it: without path and password, which hold API keys."""
        return self._endpoint.shown

    async def request(
        self, method: str, params: Sequence[Any] = (), *, is_idempotent: bool = True
    ) -> Any:
        """One JSON-RPC request, for what has no method of its own here.

        Args:
            is_idempotent: tried again when the connection fails.

        Raises:
            RpcUnavailable: no answer after all attempts.
            RpcRefused: the node answered with an error.
        """
        return await self._endpoint.ask(
            method, params, lambda result: result, is_idempotent=is_idempotent
        )

    async def reported_id(self) -> int:
        """The chain id that the endpoint names."""
        return await self._endpoint.ask("eth_chainId", [], parse_quantity)

    async def block(self, tag: BlockTag = "latest") -> Block | None:
        """The header at a height or tag; None if the chain is not that high."""
        params = [_tag(tag), False]
        return await self._endpoint.ask("eth_getBlockByNumber", params, or_none(parse_block))

    async def latest_block(self) -> Block:
        """The newest header."""
        return await self._endpoint.ask("eth_getBlockByNumber", ["latest", False], parse_block)

    async def block_number(self) -> int:
        """The height of the newest block."""
        return await self._endpoint.ask("eth_blockNumber", [], parse_count)

    async def balance(self, account: Address, tag: BlockTag = "latest") -> Wei:
        """Native coin of an account, in wei."""
        params = [account, _tag(tag)]
        return Wei(await self._endpoint.ask("eth_getBalance", params, parse_quantity))

    async def nonce(self, account: Address, tag: BlockTag = "latest") -> int:
        """How many transactions of the account are in the chain (or, with "pending", known)."""
        params = [account, _tag(tag)]
        return await self._endpoint.ask("eth_getTransactionCount", params, parse_count)

    async def code(self, account: Address) -> bytes:
        """The contract's code; empty for anything else."""
        return await self._endpoint.ask("eth_getCode", [account, "latest"], parse_data)

    async def fees(self) -> Fees:
        """What gets a transaction mined soon: twice the next block's base fee, so that it survives
        six blocks of rising fees, plus the tip that the node suggests.
        """
        base, tip = await self._fees.base_fee_and_tip()
        return Fees(Wei(2 * base + tip), tip)

    async def gas_price(self) -> Wei:
        """What a unit of gas costs in the next block, tip included, in wei. A rollup's data fee is
        not in it.
        """
        base, tip = await self._fees.base_fee_and_tip()
        return Wei(base + tip)

    async def read(
        self, call: ContractCall, *, sender: Address | None = None, tag: BlockTag = "latest"
    ) -> bytes:
        """Run a call without a transaction and return its output.

        Raises:
            TransactionReverted: the contract refuses it; carries the contract's reason.
        """
        params = [_call_object(call, sender), _tag(tag)]
        return await self._ask_call("eth_call", call, params, parse_data)

    async def estimate_gas(self, call: ContractCall, sender: Address) -> int:
        """How much gas the call takes on the newest block.

        Raises:
            TransactionReverted: the contract refuses it; carries the contract's reason.
        """
        params = [_call_object(call, sender)]
        return await self._ask_call("eth_estimateGas", call, params, parse_count)

    async def _ask_call(
        self, method: str, call: ContractCall, params: list[Any], parse: Callable[[Any], T]
    ) -> T:
        try:
            return await self._endpoint.ask(method, params, parse)
        except RpcRefused as exc:
            data = _revert_data(exc)
            if exc.code != _EXECUTION_REVERTED and not data and "revert" not in exc.reason.lower():
                raise
            raise TransactionReverted(call.description, revert_reason(data) or exc.reason) from exc

    async def send_raw(self, raw: bytes) -> None:
        """Broadcast a signed transaction. Its hash is known before: that of its bytes."""
        await self.request("eth_sendRawTransaction", ["0x" + raw.hex()])

    async def receipt(self, tx_hash: Hash32) -> TransactionReceipt | None:
        """None while the transaction is not in the chain."""
        return await self._endpoint.ask("eth_getTransactionReceipt", [tx_hash], parse_receipt)

    async def is_known(self, tx_hash: Hash32) -> bool:
        """Whether the node has the transaction, in the chain or waiting for it."""
        params = [tx_hash]
        raw = await self._endpoint.ask("eth_getTransactionByHash", params, or_none(parse_object))
        return raw is not None

    async def price_paid(self, tx_hash: Hash32) -> Wei | None:
        """What a mined transaction pays for a unit of gas, where its receipt does not tell; None
        if nothing does.
        """
        params = [tx_hash]
        try:
            return await self._endpoint.ask(
                "eth_getTransactionByHash", params, or_none(parse_gas_price)
            )
        except (RpcRefused, RpcMalformed):
            return None

    async def logs(self, log_filter: LogFilter, from_block: int, to_block: int) -> list[Log]:
        """The events of both blocks and all between, in the order of the chain.

        Raises:
            RpcRefused: at once, also where the endpoint may mean that it was asked too often: its
                code for that is the one for too many results.
        """
        params = [log_filter.to_params(from_block, to_block)]
        logs = await self._endpoint.ask("eth_getLogs", params, parse_logs)
        return sorted(logs, key=lambda log: (log.block_number, log.log_index))


@asynccontextmanager
async def open_chain(
    rpc_url: str,
    *,
    chain_id: ChainId,
    deployment: Deployment | None = None,
    retry_delays: Sequence[float] = RETRY_DELAYS_SECONDS,
) -> AsyncGenerator[Chain]:
    """Connect, and check that this is the right chain with the right contracts.

    Args:
        deployment: where the contracts are; None to use the chain before they exist.
        retry_delays: seconds between the attempts of a request.

    Raises:
        WrongChain: the endpoint or the deployment file is of another chain.
        NoCodeAtAddress: nothing is deployed where the deployment file says.
        ChainError: what is deployed there does not have the era-C interface.
        RpcUnavailable: no answer.
    """
    # Timeouts are ours (`request`).
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        chain = Chain(session, rpc_url, chain_id, retry_delays)
        actual = await chain.reported_id()
        if actual != chain_id:
            raise WrongChain(chain.shown_url, chain_id, actual)
        if deployment is not None:
            await _check_deployment(chain, deployment)
        yield chain


async def _check_deployment(chain: Chain, deployment: Deployment) -> None:
    if deployment.chain_id != chain.chain_id:
        raise WrongChain("the deployment file", chain.chain_id, deployment.chain_id)
    for name, address in deployment.contracts().items():
        if not await chain.code(address):
            raise NoCodeAtAddress(name, address, chain.chain_id)
    await _check_era(chain, deployment.job_marketplace)


async def _check_era(chain: Chain, marketplace: Address) -> None:
    """Era B's getter has 17 fields, era C's 18: the first string begins right behind them."""
    try:
        session = await _read_getter(chain, marketplace, "sessionJobs", 0)
        precision = await _read_getter(chain, marketplace, "PRICE_PRECISION")
    except TransactionReverted as exc:
        raise ChainError(
            f"the contract at {marketplace} is not a marketplace ({exc.action} fails): "
            "correct job_marketplace in the deployment file"
        ) from exc
    if _word(session, _FIRST_STRING_FIELD) != _NUM_SESSION_FIELDS * 32:
        raise ChainError(
            f"the marketplace at {marketplace} does not store sessions of "
            f"{_NUM_SESSION_FIELDS} fields: it is of another version; use the deployment file of "
            "one that this version can speak to"
        )
    if _word(precision, 0) != PRICE_PRECISION:
        raise ChainError(
            f"the marketplace at {marketplace} divides prices by {_word(precision, 0)}, this "
            f"version by {PRICE_PRECISION}: every payment would be wrong; use another deployment"
        )


_NUM_SESSION_FIELDS = 18
_FIRST_STRING_FIELD = 15


async def _read_getter(chain: Chain, marketplace: Address, name: str, *arguments: int) -> bytes:
    getter = load_abi("JobMarketplaceWithModels").functions[name]
    data = getter.encode(*arguments)
    return await chain.read(ContractCall(to=marketplace, data=data, description=f"reading {name}"))


def _word(data: bytes, index: int) -> int:
    return int.from_bytes(data[32 * index : 32 * index + 32], "big")


def _call_object(call: ContractCall, sender: Address | None) -> dict[str, str]:
    params = {"data": "0x" + call.data.hex(), "value": hex(call.value)}
    if call.to is not None:
        params["to"] = call.to
    if sender is not None:
        params["from"] = sender
    return params


def _revert_data(refusal: RpcRefused) -> bytes:
    """What the contract answered; empty if that is not what came with the refusal."""
    try:
        data = parse_data(refusal.data)
    except ValueError:
        return b""
    return data if len(data) >= _SELECTOR_BYTES else b""


def _tag(tag: BlockTag) -> str:
    return hex(tag) if isinstance(tag, int) else tag
