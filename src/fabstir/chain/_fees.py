"""What the next block asks for a unit of gas, from whichever methods the endpoint has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from fabstir.chain._endpoint import RpcEndpoint
from fabstir.chain.records import (
    or_none,
    parse_base_fee,
    parse_fee,
    parse_next_base_fee,
    parse_text,
)
from fabstir.primitives.errors import ChainError, RpcMalformed, RpcRefused
from fabstir.primitives.units import Wei

logger = logging.getLogger(__name__)

T = TypeVar("T")

SMALL_TIP: Final = Wei(1_000_000)
"""Wei for a unit of gas where the endpoint suggests no tip: 0.001 gwei, what Base's own nodes
suggest. Where it is too little, the transaction is replaced by one with more when it is stuck."""

_MAX_RISE: Final = (9, 8)
"""EIP-1559: a block's base fee is at most an eighth above its parent's."""


class FeeMarket:
    """Prices of gas. Remembers which methods the endpoint does not have."""

    def __init__(self, endpoint: RpcEndpoint) -> None:
        self._endpoint = endpoint
        self._missing: set[str] = set()
        self._client: str | None = None
        """What the node calls itself; None: not asked yet."""

    async def base_fee_and_tip(self) -> tuple[Wei, Wei]:
        """The next block's base fee, and a tip that gets a transaction into it; wei for a unit.

        Raises:
            ChainError: the endpoint does not answer, or its blocks have no base fee.
        """
        suggested = await self._try("eth_maxPriorityFeePerGas", [], parse_fee)
        tip = SMALL_TIP if suggested is None else suggested
        base = await self._base_fee()
        return base, base if tip > base and await self._is_anvil() else tip

    async def _base_fee(self) -> Wei:
        # The next block's, which the newest header does not tell where a chain's own rule or a
        # devnet's option sets it: what is offered below it is refused until a block comes.
        base = await self._try("eth_feeHistory", ["0x1", "latest", []], parse_next_base_fee)
        if base is None:
            base = await self._header_fee("pending")
        if base is not None:
            return base
        newest = await self._header_fee("latest")
        if newest is None:
            raise ChainError(
                f"the chain's RPC at {self._endpoint.shown} tells no base fee, neither by "
                "eth_feeHistory nor in the header of eth_getBlockByNumber: transactions of the "
                "kind that is sent here need one; set chain.rpc_url to another endpoint"
            )
        rise, whole = _MAX_RISE
        return Wei(-(-newest * rise // whole))

    async def _header_fee(self, tag: str) -> Wei | None:
        """None where there is no such header, or no base fee in it."""
        try:
            return await self._endpoint.ask(
                "eth_getBlockByNumber", [tag, False], or_none(parse_base_fee)
            )
        except (RpcRefused, RpcMalformed) as exc:
            logger.info("a header without a base fee", extra={"tag": tag, "reason": str(exc)})
            return None

    async def _try(self, method: str, params: Sequence[Any], parse: Callable[[Any], T]) -> T | None:
        """None if the endpoint does not have the method, or not as it is meant.

        What it refuses it is not asked for again; a malformed answer may be the only one.
        """
        if method in self._missing:
            return None
        try:
            return await self._endpoint.ask(method, params, parse)
        except RpcMalformed as exc:
            extra = {"method": method, "reason": str(exc)}
            logger.info("a price of gas is found without a method", extra=extra)
            return None
        except RpcRefused as exc:
            self._missing.add(method)
            logger.warning(
                "the chain's RPC lacks a method; it is done without",
                extra={"method": method, "reason": str(exc)},
            )
            return None

    async def _is_anvil(self) -> bool:
        """anvil mines what pays the base fee, yet suggests a tip of 1 gwei whatever its options
        say (1.7.1): 200 times the whole price of gas on Base.
        """
        if self._client is None:  # some public endpoints do not tell
            self._client = await self._try("web3_clientVersion", [], parse_text)
        return (self._client or "").lower().startswith("anvil/")
