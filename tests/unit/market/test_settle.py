"""The mirror of the contract's arithmetic: parts add up, whatever the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.market.settlement import settle
from fabstir.primitives.units import BasisPoints, PricePerToken, TokenCount, Wei, tokens_for


@given(
    deposit=st.integers(0, 10**24),
    price=st.integers(1, 10**20),
    share=st.fractions(0, 1),
    fee=st.integers(0, 10_000),
)
def test_the_parts_are_the_deposit(deposit: int, price: int, share: float, fee: int) -> None:
    most = tokens_for(Wei(deposit), PricePerToken(price))
    tokens = TokenCount(int(most * share))

    parts = settle(Wei(deposit), tokens, PricePerToken(price), BasisPoints(fee))

    assert parts.host + parts.treasury + parts.refund == deposit
    assert min(parts.host, parts.treasury, parts.refund) >= 0


def test_tokens_beyond_the_deposit_are_refused() -> None:
    with pytest.raises(ValueError, match="more than the deposit"):
        settle(Wei(10), TokenCount(11), PricePerToken(1000), BasisPoints(0))
