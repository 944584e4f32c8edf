"""What every contract wrapper is made of: an address, an ABI, typed reads and calls."""

from __future__ import annotations

from typing import Any

from fabstir.chain.abi import load_abi
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import BlockTag, Chain
from fabstir.primitives.errors import ChainError
from fabstir.primitives.ids import Address
from fabstir.primitives.units import Wei


class Contract:
    """A contract at an address. Subclasses give names and types to its functions."""

    artifact: str
    """Which of the committed artifacts has its ABI."""

    def __init__(self, chain: Chain, address: Address) -> None:
        self.address = address
        self._chain = chain
        self._abi = load_abi(self.artifact)

    async def _read(
        self, function: str, *arguments: Any, tag: BlockTag = "latest"
    ) -> tuple[Any, ...]:
        """All outputs of a view function. Any: parsed by the caller, here is the edge."""
        call = self._call(f"reading {self.artifact}.{function}", function, *arguments)
        outputs = await self._chain.read(call, tag=tag)
        try:
            return self._abi.functions[function].decode(outputs)
        except ChainError as exc:
            raise self._unreadable(str(exc)) from exc

    def _unreadable(self, reason: str) -> ChainError:
        """What a view function returned is nothing that this contract could return."""
        return ChainError(f"eth_call at {self._chain.shown_url}: {reason}")

    async def _read_one(self, function: str, *arguments: Any, tag: BlockTag = "latest") -> Any:
        """The first (usually only) output."""
        return (await self._read(function, *arguments, tag=tag))[0]

    def _call(
        self,
        description: str,
        function: str,
        *arguments: Any,
        value: Wei = Wei(0),
        min_gas_limit: int = 0,
    ) -> ContractCall:
        data = self._abi.functions[function].encode(*arguments)
        return ContractCall(
            to=self.address,
            data=data,
            value=value,
            description=description,
            min_gas_limit=min_gas_limit,
        )
