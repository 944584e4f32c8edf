"""Prices, books, settlement, the choice of a host: all the money, once."""
