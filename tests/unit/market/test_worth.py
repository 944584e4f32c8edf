"""What a host serves and sends is worth its gas, whatever the renter wrote into the session."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.db.host_sessions import SessionTerms
from fabstir.market.settlement import settle
from fabstir.market.worth import GAS_TO_CLAIM, GAS_TO_END, INTERIM_RETURN, HostTerms
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ModelId
from fabstir.primitives.units import (
    BasisPoints,
    PricePerToken,
    TokenCount,
    Wei,
    price_from_million,
    tokens_for,
)

USDC = Address("0x" + "cc" * 20)
COIN_PRICE = price_from_million(Wei(2 * 10**14))
USDC_PRICE = price_from_million(Wei(600_000))
DEVNET_GAS, BASE_GAS, MAINNET_GAS = Wei(100), Wei(5_000_000), Wei(10**9)

HOST = HostTerms(
    prices={NATIVE_TOKEN: COIN_PRICE, USDC: USDC_PRICE},
    min_deposits={NATIVE_TOKEN: Wei(0), USDC: Wei(0)},
    min_proof_interval=TokenCount(100),
    min_duration=60,
    max_unproven=TokenCount(256),
    fee=BasisPoints(1000),
    min_proven=TokenCount(1),
)

GENUINE = SessionTerms(
    depositor=Address("0x" + "11" * 20),
    payment_token=NATIVE_TOKEN,
    deposit=Wei(10**14),
    price_per_token=COIN_PRICE,
    model_id=ModelId("0x" + "33" * 32),
    proof_interval=TokenCount(1000),
    proof_window=300,
    started_at=1_000_000,
    max_duration=86_400,
)
"""What existing clients open by default: the contract's smallest deposit at the host's price."""


@pytest.mark.parametrize("gas_price", [DEVNET_GAS, BASE_GAS])
@pytest.mark.parametrize(
    "terms",
    [
        GENUINE,
        replace(GENUINE, payment_token=USDC, deposit=Wei(500_000), price_per_token=USDC_PRICE),
    ],
    ids=["ETH", "USDC"],
)
def test_the_default_sessions_of_existing_clients_pass(terms: SessionTerms, gas_price: Wei) -> None:
    assert HOST.objection(terms, gas_price) is None


def test_a_model_with_a_price_of_its_own_is_sold_at_that() -> None:
    dear, cheap = ModelId("0x" + "44" * 32), ModelId("0x" + "55" * 32)
    own = {dear: PricePerToken(2 * COIN_PRICE), cheap: PricePerToken(COIN_PRICE // 2)}
    host = replace(HOST, model_prices={each: {NATIVE_TOKEN: own[each]} for each in own})
    sold_at = {each: replace(GENUINE, model_id=each, price_per_token=own[each]) for each in own}

    assert host.objection(GENUINE, DEVNET_GAS) is None
    assert host.objection(sold_at[dear], DEVNET_GAS) is None
    assert host.objection(sold_at[cheap], DEVNET_GAS) is None
    assert "its price is" in (host.objection(replace(GENUINE, model_id=dear), DEVNET_GAS) or "")
    assert "no price in" in (
        host.objection(replace(sold_at[dear], payment_token=USDC), DEVNET_GAS) or ""
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"proof_interval": TokenCount(1)}, "proof interval"),
        ({"max_duration": 59}, "60 s"),
        ({"price_per_token": PricePerToken(COIN_PRICE - 1)}, "price"),
        ({"payment_token": Address("0x" + "dd" * 20)}, "no price"),
        ({"deposit": Wei(10**11)}, "deposit"),
    ],
)
def test_what_is_below_the_hosts_own_terms_is_refused(change: dict[str, object], says: str) -> None:
    objection = HOST.objection(replace(GENUINE, **change), BASE_GAS)  # pyright: ignore[reportArgumentType] - fields of the terms

    assert objection is not None
    assert says in objection


def test_the_hosts_own_least_deposit_counts_by_token() -> None:
    host = replace(HOST, min_deposits={NATIVE_TOKEN: Wei(10**14 + 1), USDC: Wei(0)})

    assert "100000000000001" in (host.objection(GENUINE, DEVNET_GAS) or "")


def test_a_deposit_that_cannot_pay_for_its_settlement_is_refused_where_gas_is_dear() -> None:
    assert HOST.objection(GENUINE, MAINNET_GAS) is not None


@pytest.mark.parametrize("interval", [100, 1000, 5_000_000])
def test_the_renters_interval_never_raises_the_exposure(interval: int) -> None:
    terms = replace(GENUINE, proof_interval=TokenCount(interval))

    assert HOST.max_unproven_of(terms, DEVNET_GAS) == min(256, interval)


terms_of_any_kind = st.builds(
    SessionTerms,
    depositor=st.just(GENUINE.depositor),
    payment_token=st.sampled_from([NATIVE_TOKEN, USDC]),
    deposit=st.integers(1, 10**21).map(Wei),
    price_per_token=st.integers(1, 10**16).map(PricePerToken),
    model_id=st.just(GENUINE.model_id),
    proof_interval=st.integers(1, 10**9).map(TokenCount),
    proof_window=st.integers(1, 3600),
    started_at=st.just(1_000_000),
    max_duration=st.integers(1, 365 * 86_400),
)
gas_prices = st.integers(1, 10**12).map(Wei)


def earned_in_coin(tokens: int, terms: SessionTerms) -> int:
    """The host's share of so many tokens, at the rate of its own two prices."""
    deposit = Wei(10**40)
    share = settle(deposit, TokenCount(tokens), terms.price_per_token, HOST.fee).host
    return share * COIN_PRICE // HOST.prices[terms.payment_token]


@given(terms=terms_of_any_kind, gas=st.integers(1, 10**6), gas_price=gas_prices)
def test_tokens_that_are_worth_their_gas_earn_more_than_it(
    terms: SessionTerms, gas: int, gas_price: Wei
) -> None:
    tokens = HOST.tokens_worth(gas, terms, gas_price)

    assert earned_in_coin(tokens, terms) >= gas * gas_price


@given(terms=terms_of_any_kind, gas_price=gas_prices)
def test_whatever_is_served_can_pay_for_its_own_settlement(
    terms: SessionTerms, gas_price: Wei
) -> None:
    if HOST.objection(terms, gas_price) is None:
        most = tokens_for(terms.deposit, terms.price_per_token)

        assert HOST.min_claim(terms, TokenCount(0), gas_price) <= most
        assert earned_in_coin(most, terms) >= (GAS_TO_CLAIM + GAS_TO_END) * gas_price


@given(terms=terms_of_any_kind, gas_price=gas_prices)
def test_an_interim_claim_is_worth_its_gas_several_times(
    terms: SessionTerms, gas_price: Wei
) -> None:
    bound = HOST.max_unproven_of(terms, gas_price)
    most = tokens_for(terms.deposit, terms.price_per_token)
    due_at = -(-bound * 3 // 4)

    if due_at <= most and bound < most:
        assert earned_in_coin(due_at, terms) >= INTERIM_RETURN * GAS_TO_CLAIM * gas_price
