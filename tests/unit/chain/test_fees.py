"""Replacements offer enough more, and never less than what is asked now."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fabstir.chain._settling import _raised  # pyright: ignore[reportPrivateUsage] - the rule itself
from fabstir.chain.records import Fees
from fabstir.db.signed import SignedVersion
from fabstir.primitives.ids import Hash32
from fabstir.primitives.units import Wei

fees = st.integers(min_value=0, max_value=10**15)


@given(fees, fees, fees, fees)
def test_a_replacement_pays_an_eighth_more(max_fee: int, tip: int, now: int, now_tip: int) -> None:
    version = SignedVersion(
        tx_hash=Hash32("0x"),
        raw=b"",
        nonce=0,
        max_fee_per_gas=Wei(max_fee),
        max_priority_fee_per_gas=Wei(tip),
    )

    raised = _raised(version, Fees(Wei(now), Wei(now_tip)))

    assert raised.max_fee_per_gas * 1000 > max_fee * 1125
    assert raised.max_priority_fee_per_gas * 1000 > tip * 1125
    assert raised.max_fee_per_gas >= now
    assert raised.max_priority_fee_per_gas >= now_tip
