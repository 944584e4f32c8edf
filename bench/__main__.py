"""`python -m bench`: what a host adds to its engine, a table with the engine asked directly."""

import argparse
from functools import partial

import anyio

from bench import streaming

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=list(streaming.STREAMS))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    plan = streaming.Plan(tuple(given.streams), given.rounds, given.tokens)
    # As `fabstir serve` runs.
    anyio.run(partial(streaming.main, plan), backend_options={"use_uvloop": True})
