"""A session's terms before its deposit: what an app may give, and what is never journalled."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from tests.unit.sdk.renting import ROW

from fabstir.config import RenterSettings, load_settings
from fabstir.db.renter import RenterSession
from fabstir.primitives.errors import LocalProtocolError
from fabstir.primitives.ids import PeerId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.sdk.drafts import draft_session
from fabstir.sdk.money import NATIVE_COIN
from fabstir.sdk.offers import HostOffer, Model

OFFER = HostOffer(
    host=ROW.host,
    peer_id=PeerId("peer"),
    api_url="http://127.0.0.1:1",
    addresses=("http://127.0.0.1:1",),
    public_key=ROW.host_public_key,
    model=Model(model_id=ROW.model_id, repo="repo", file="file", digest=ROW.model_digest),
    max_model_len=4096,
    token=NATIVE_COIN,
    price_per_token=PricePerToken(1000),
    latency=0.1,
)


@pytest.fixture
def renter_settings(tmp_path: Path) -> RenterSettings:
    file = tmp_path / "fabstir.toml"
    file.touch(mode=0o600)
    return load_settings(file=file, environ={}).renter


def draft(
    settings: RenterSettings,
    deposit: object,
    *,
    proof_window: object = None,
    proof_interval: object = None,
) -> RenterSession:
    return draft_session(
        OFFER,
        cast("Wei", deposit),
        chain_id=ROW.chain_id,
        contract=ROW.contract,
        depositor=ROW.depositor,
        settings=settings,
        proof_window=cast("int | None", proof_window),
        proof_interval=cast("TokenCount | None", proof_interval),
        random=bytes,
        now=0.0,
    )


@pytest.mark.parametrize("deposit", [0.001 * 10**18, 0.001, "0.001", None, True, 1e15])
def test_a_deposit_that_is_no_int_is_refused_with_the_way_to_make_one(
    renter_settings: RenterSettings, deposit: object
) -> None:
    with pytest.raises(LocalProtocolError, match=r"is an int .* ETH.*offer\.token\.parse"):
        draft(renter_settings, deposit)


@pytest.mark.parametrize("value", [60.0, "60", True])
def test_so_is_any_other_number_that_is_none(
    renter_settings: RenterSettings, value: object
) -> None:
    with pytest.raises(LocalProtocolError, match=r"proof_window is an int \(seconds\)"):
        draft(renter_settings, 10**15, proof_window=value)
    with pytest.raises(LocalProtocolError, match=r"proof_interval is an int \(tokens\)"):
        draft(renter_settings, 10**15, proof_interval=value)


def test_an_int_is_taken_as_it_is(renter_settings: RenterSettings) -> None:
    assert draft(renter_settings, 10**15, proof_window=60).deposit == 10**15
