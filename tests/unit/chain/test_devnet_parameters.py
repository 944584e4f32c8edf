"""What may be chosen of a devnet, and what is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from fabstir.chain.devnet import DevnetParameters
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import ChainId


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"chain_id": 0}, "--chain-id is 0: it must be from 1"),
        ({"chain_id": 2**53}, "--chain-id is 9007199254740992: it must be from 1"),
        ({"block_time": 0}, "--block-time is 0: it must be from 1"),
        ({"interval_only": True}, "--interval-only needs --block-time"),
        ({"base_fee": -1}, "--base-fee is -1: it must be from 0"),
        ({"port": 65536}, "--port is 65536: it must be from 0 to 65535"),
    ],
)
def test_nonsense_is_refused_by_the_name_of_the_option(chosen: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        DevnetParameters(**chosen)


def test_what_existing_clients_need_is_accepted() -> None:
    parameters = DevnetParameters(chain_id=ChainId(84532), block_time=1, interval_only=True)

    assert parameters.base_fee == 100
