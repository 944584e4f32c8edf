"""Benchmarks: never part of the gate; machines are noisy, so ratios are what counts."""
