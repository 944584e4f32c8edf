"""Money adds up: integers only, and every conversion rounds as the contracts do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import prices, weis

from fabstir.primitives.units import (
    PRICE_PRECISION,
    PricePerToken,
    TokenCount,
    Wei,
    cost_of,
    format_amount,
    parse_amount,
    price_from_million,
    price_per_million,
    tokens_for,
)

tokens = st.integers(0, 1 << 64).map(TokenCount)


@given(tokens, tokens, prices)
def test_cost_grows_and_never_charges_more_than_the_exact_price(
    some: TokenCount, more: TokenCount, price: PricePerToken
) -> None:
    total = TokenCount(some + more)

    assert cost_of(some, price) <= cost_of(total, price)
    assert 0 <= total * price - cost_of(total, price) * PRICE_PRECISION < PRICE_PRECISION


@given(tokens, tokens, prices)
def test_a_cumulative_cost_is_at_least_the_sum_of_its_parts(
    some: TokenCount, more: TokenCount, price: PricePerToken
) -> None:
    """Receipts carry cumulative costs, so that rounding happens once and not at each receipt."""
    together = cost_of(TokenCount(some + more), price)

    assert 0 <= together - cost_of(some, price) - cost_of(more, price) <= 1


@given(weis, prices)
def test_a_deposit_pays_for_its_tokens_and_for_no_whole_token_more(
    deposit: Wei, price: PricePerToken
) -> None:
    most = tokens_for(deposit, price)

    assert cost_of(most, price) <= deposit
    assert (most + 1) * price > deposit * PRICE_PRECISION


@given(prices)
def test_prices_survive_the_form_people_read(price: PricePerToken) -> None:
    assert price_from_million(price_per_million(price)) == price


@given(weis)
def test_a_price_set_by_people_is_never_rounded_up(per_million: Wei) -> None:
    assert 0 <= per_million - price_per_million(price_from_million(per_million)) < 1000


@given(st.integers(0, (1 << 256) - 1), st.integers(0, 18))
def test_amounts_survive_their_written_form(amount: int, decimals: int) -> None:
    assert parse_amount(format_amount(amount, decimals), decimals) == amount


@given(st.integers(-(1 << 256), (1 << 256) - 1), st.integers(0, 18))
def test_written_amounts_are_exact_and_short(amount: int, decimals: int) -> None:
    text = format_amount(amount, decimals)

    whole, _, fraction = text.partition(".")
    assert int(whole + fraction.ljust(decimals, "0")) == amount or text.startswith("-0.")
    assert not fraction.endswith("0")


@pytest.mark.parametrize(
    ("text", "decimals", "amount"),
    [
        ("0", 18, 0),
        ("1", 0, 1),
        (" 0.05 ", 18, 5 * 10**16),
        (".5", 6, 500_000),
        ("5.", 6, 5_000_000),
        ("1.230000000", 6, 1_230_000),
        ("007", 6, 7_000_000),
        # 38 digits: decimal.Decimal rounded this to ...790000000000 before.
        ("12345678901234567890.123456789012345678", 18, 12345678901234567890123456789012345678),
    ],
)
def test_amounts_are_read_exactly(text: str, decimals: int, amount: int) -> None:
    assert parse_amount(text, decimals) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-1",
        "+1",
        "1e5",
        "1e1000000000",
        "1_000",
        "1,5",
        "0x10",
        "NaN",
        "inf",
        "1.2.3",
        "١٢",
        "9" * 79,
    ],
)
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount of money"):
        parse_amount(text, 18)


@pytest.mark.parametrize(("text", "decimals"), [("0.1", 0), ("0.0000001", 6), ("1.0000001", 6)])
def test_an_amount_finer_than_the_token_is_refused(text: str, decimals: int) -> None:
    with pytest.raises(ValueError, match="more than"):
        parse_amount(text, decimals)


def test_negative_amounts_are_written_with_their_sign() -> None:
    assert format_amount(-1_500_000, 6) == "-1.5"
    assert format_amount(-1, 6) == "-0.000001"
