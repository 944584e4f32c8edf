"""The chain's JSON-RPC node, checked when it is opened and typed from there on.

Over aiohttp, not web3.py's AsyncHTTPProvider: for each request that one takes a lock of the whole
process in a thread, and a task that is cancelled meanwhile (a timeout is enough) leaves it taken
for ever. Measured with web3 8.0.0: after the first cancelled group of requests no other was
answered. It also opens a connection for each request: 0.48 ms against 0.16 ms.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import anyio

from fabstir.chain.abi import load_abi, revert_reason
from fabstir.chain.deployment import Deployment
from fabstir.chain.records import (
    Block,
    ContractCall,
    Fees,
    Log,
    LogFilter,
    Receipt,
    parse_block,
    parse_data,
    parse_log,
    parse_quantity,
    parse_receipt,
)
from fabstir.primitives.errors import (
    ChainError,
    NoCodeAtAddress,
    RpcRefused,
    RpcUnavailable,
    TransactionReverted,
    WrongChain,
)
from fabstir.primitives.ids import Address, ChainId, Hash32
from fabstir.primitives.units import PRICE_PRECISION, Wei

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 10.0
"""For one attempt. Public endpoints answer within a second or not at all."""

RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""3.8 s in all: long enough for a node that restarts, short enough for a person who waits."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500

_EXECUTION_REVERTED = 3
"""The error code of a revert in eth_call and eth_estimateGas (geth, anvil, reth)."""

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
        self._retry_delays = retry_delays
        self.rpc_url = rpc_url
        self.chain_id = chain_id
        self._client: str | None = None
        """What the node calls itself; None: not asked yet."""

    @property
    def shown_url(self) -> str:
        """The URL as errors and logs show it: without path and password, which hold API keys."""
        return _shown(self.rpc_url)

    async def request(
        self, method: str, params: Sequence[Any] = (), *, is_idempotent: bool = True
    ) -> Any:
        """One JSON-RPC request.

        Args:
            is_idempotent: tried again when the connection fails. Sending a signed transaction is:
                its hash is the same each time.

        Raises:
            RpcUnavailable: no answer after all attempts.
            RpcRefused: the node answered with an error.
        """
        reason = ""
        for delay in (*self._retry_delays, None) if is_idempotent else (None,):
            try:
                return await self._request_once(method, params)
            except RpcRefused as exc:
                if delay is None or not _is_rate_limit(exc):
                    raise
                reason = exc.reason
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                # TimeoutError is an OSError; ValueError: the answer is not JSON (a proxy's page).
                reason = _public_reason(exc)
            if delay is not None:
                logger.info("retrying RPC", extra={"method": method, "reason": reason})
                await anyio.sleep(delay)
        raise RpcUnavailable(
            f"the chain's RPC at {self.shown_url} does not answer {method}: {reason}. "
            "Check that it is running and that chain.rpc_url is right"
        )

    async def _request_once(self, method: str, params: Sequence[Any]) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        with anyio.fail_after(REQUEST_TIMEOUT_SECONDS):
            async with self.session.post(
                self.rpc_url, json=body, allow_redirects=False
            ) as response:
                if response.status in _REDIRECTS:
                    raise OSError(f"it redirects (HTTP {response.status}), which is not followed")
                if response.status == _TOO_MANY_REQUESTS or response.status >= _SERVER_ERROR:
                    response.raise_for_status()
                answer: Any = await response.json(content_type=None)
        return _result(method, answer)

    async def block(self, tag: BlockTag = "latest") -> Block | None:
        """The header at a height or tag; None if the chain is not that high."""
        raw = await self.request("eth_getBlockByNumber", [_tag(tag), False])
        return parse_block(raw) if raw else None

    async def latest_block(self) -> Block:
        """The newest header."""
        block = await self.block("latest")
        if block is None:
            raise ChainError(f"{self.shown_url} has no latest block: it is still syncing")
        return block

    async def block_number(self) -> int:
        """The height of the newest block."""
        return parse_quantity(await self.request("eth_blockNumber"))

    async def balance(self, account: Address, tag: BlockTag = "latest") -> Wei:
        """Native coin of an account, in wei."""
        return Wei(parse_quantity(await self.request("eth_getBalance", [account, _tag(tag)])))

    async def nonce(self, account: Address, tag: BlockTag = "latest") -> int:
        """How many transactions of the account are in the chain (or, with "pending", known)."""
        answer = await self.request("eth_getTransactionCount", [account, _tag(tag)])
        return parse_quantity(answer)

    async def code(self, account: Address) -> bytes:
        """The contract's code; empty for anything else."""
        return parse_data(await self.request("eth_getCode", [account, "latest"]))

    async def fees(self) -> Fees:
        """What gets a transaction mined soon: twice the next block's base fee, so that it survives
        six blocks of rising fees, plus the tip that the node suggests.
        """
        base, tip = await self._base_fee_and_tip()
        return Fees(Wei(2 * base + tip), tip)

    async def gas_price(self) -> Wei:
        """What a unit of gas costs in the next block, tip included, in wei. A rollup's data fee is
        not in it.
        """
        base, tip = await self._base_fee_and_tip()
        return Wei(base + tip)

    async def _base_fee_and_tip(self) -> tuple[Wei, Wei]:
        tip = Wei(parse_quantity(await self.request("eth_maxPriorityFeePerGas")))
        # The next block's, which the newest header does not tell where a chain's own rule or a
        # devnet's option sets it: what is offered below it is refused until a block comes.
        history = await self.request("eth_feeHistory", ["0x1", "latest", []])
        base = Wei(parse_quantity(history["baseFeePerGas"][-1]))
        return base, base if tip > base and await self._is_anvil() else tip

    async def _is_anvil(self) -> bool:
        """anvil mines what pays the base fee, yet suggests a tip of 1 gwei whatever its options
        say (1.7.1): 200 times the whole price of gas on Base.
        """
        if self._client is None:
            try:
                self._client = str(await self.request("web3_clientVersion")).lower()
            except RpcRefused:  # some public endpoints do not tell
                self._client = ""
        return self._client.startswith("anvil/")

    async def read(
        self, call: ContractCall, *, sender: Address | None = None, tag: BlockTag = "latest"
    ) -> bytes:
        """Run a call without a transaction and return its output.

        Raises:
            TransactionReverted: the contract refuses it; carries the contract's reason.
        """
        params = [_call_object(call, sender), _tag(tag)]
        return parse_data(await self._request_call("eth_call", call, params))

    async def estimate_gas(self, call: ContractCall, sender: Address) -> int:
        """How much gas the call takes on the newest block.

        Raises:
            TransactionReverted: the contract refuses it; carries the contract's reason.
        """
        params = [_call_object(call, sender)]
        return parse_quantity(await self._request_call("eth_estimateGas", call, params))

    async def _request_call(self, method: str, call: ContractCall, params: list[Any]) -> Any:
        try:
            return await self.request(method, params)
        except RpcRefused as exc:
            if exc.code != _EXECUTION_REVERTED and "revert" not in exc.reason.lower():
                raise
            reason = revert_reason(parse_data(exc.data)) if exc.data else None
            raise TransactionReverted(call.description, reason or exc.reason) from exc

    async def send_raw(self, raw: bytes) -> None:
        """Broadcast a signed transaction. Its hash is known before: that of its bytes."""
        await self.request("eth_sendRawTransaction", ["0x" + raw.hex()])

    async def receipt(self, tx_hash: Hash32) -> Receipt | None:
        """None while the transaction is not in the chain."""
        raw = await self.request("eth_getTransactionReceipt", [tx_hash])
        return parse_receipt(raw) if raw else None

    async def logs(self, log_filter: LogFilter, from_block: int, to_block: int) -> list[Log]:
        """The events of both blocks and all between, in the order of the chain."""
        raw: list[Any] = await self.request(
            "eth_getLogs", [log_filter.to_params(from_block, to_block)]
        )
        logs = [parse_log(entry) for entry in raw]
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
        actual = parse_quantity(await chain.request("eth_chainId"))
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


def _result(method: str, answer: Any) -> Any:
    """The result in a JSON-RPC answer.

    Raises:
        RpcRefused: the answer is an error.
        ValueError: it is no JSON-RPC answer.
    """
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    error = fields.get("error")
    if isinstance(error, dict):
        details = cast("dict[str, Any]", error)
        data = details.get("data")
        text = data if isinstance(data, str) else ""
        raise RpcRefused(method, int(details.get("code", 0)), str(details.get("message")), text)
    if error is not None or "result" not in fields:
        raise ValueError("what came back is not a JSON-RPC answer")
    return fields["result"]


def _call_object(call: ContractCall, sender: Address | None) -> dict[str, str]:
    params = {"data": "0x" + call.data.hex(), "value": hex(call.value)}
    if call.to is not None:
        params["to"] = call.to
    if sender is not None:
        params["from"] = sender
    return params


def _is_rate_limit(refusal: RpcRefused) -> bool:
    """Public endpoints use several codes; -32005 also means "too many results"."""
    reason = refusal.reason.lower()
    return (
        refusal.code == _TOO_MANY_REQUESTS
        or "rate limit" in reason
        or "too many requests" in reason
    )


def _tag(tag: BlockTag) -> str:
    return hex(tag) if isinstance(tag, int) else tag


def _public_reason(failure: Exception) -> str:
    """What went wrong, without the URL that aiohttp puts into some of its texts."""
    if isinstance(failure, aiohttp.ClientResponseError):
        return f"HTTP {failure.status} {failure.message}"
    if isinstance(failure, aiohttp.InvalidURL):
        return "that is not a URL"
    return str(failure) or type(failure).__name__


def _shown(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname:
        return "the configured URL"
    port = f":{parts.port}" if parts.port else ""
    hidden = "/..." if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{parts.hostname}{port}{hidden}"
