"""Units as types, and the only arithmetic between them.

A language-model token is always a `TokenCount`; an ERC-20 amount is always `Wei`, whatever
the token's decimals are. Nothing here is ever a float.
"""

from __future__ import annotations

import re
from typing import NewType

Wei = NewType("Wei", int)
"""An amount in the smallest unit of the payment token (wei, or 10^-6 USDC)."""

TokenCount = NewType("TokenCount", int)
"""A number of language-model tokens."""

PricePerToken = NewType("PricePerToken", int)
"""A price in 1/PRICE_PRECISION smallest units per language-model token."""

BasisPoints = NewType("BasisPoints", int)
"""A share in 1/10,000."""

PRICE_PRECISION = 1000
"""Era-C contracts divide tokens * price by this; a contract with another value is refused."""

BPS_DENOMINATOR = 10_000

TOKENS_PER_MILLION = 1_000_000

_AMOUNT = re.compile(r"(?=\.?[0-9])([0-9]{0,78})(?:\.([0-9]{0,78}))?", re.ASCII)


def cost_of(tokens: TokenCount, price: PricePerToken) -> Wei:
    """What `tokens` cost, rounded down as the contract rounds.

    Source: `_cost` in contracts/src/JobMarketplaceWithModels.sol.
    """
    return Wei(tokens * price // PRICE_PRECISION)


def tokens_for(deposit: Wei, price: PricePerToken) -> TokenCount:
    """The most tokens that a deposit pays for.

    Source: `_maxTokens` in contracts/src/JobMarketplaceWithModels.sol; a claim above it reverts.
    `price` is positive: the registry refuses a price of nothing.
    """
    return TokenCount(deposit * PRICE_PRECISION // price)


def price_per_million(price: PricePerToken) -> Wei:
    """The price of a million tokens, in smallest units: how people read and set prices."""
    return Wei(price * TOKENS_PER_MILLION // PRICE_PRECISION)


def price_from_million(per_million: Wei) -> PricePerToken:
    """The inverse of `price_per_million`, rounded down to the contract's resolution."""
    return PricePerToken(per_million * PRICE_PRECISION // TOKENS_PER_MILLION)


def parse_amount(text: str, decimals: int) -> Wei:
    """Parse a decimal amount such as "0.05" into smallest units.

    Raises:
        ValueError: not a plain decimal number, negative, or finer than `decimals` allows.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an amount of money: write it like 12 or 0.05")
    # Digits only: decimal.Decimal rounds to 28 of them, which is less than 10^10 ETH in wei.
    whole, fraction = match[1], (match[2] or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"{text!r} has more than {decimals} decimals")
    return Wei(int(whole + fraction.ljust(decimals, "0") or "0"))


COIN_DECIMALS = 18
"""Of the chain's own coin, in wei."""

FAB_DECIMALS = 18
USDC_DECIMALS = 6


def format_amount(amount: int, decimals: int) -> str:
    """Write smallest units as a decimal, exactly, without trailing zeros."""
    sign, digits = ("-" if amount < 0 else ""), str(abs(amount)).rjust(decimals + 1, "0")
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    fraction = fraction.rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"
