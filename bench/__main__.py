"""`python -m bench`: every benchmark, each a table with its peer measured in the same run."""

import anyio

from bench import streaming

if __name__ == "__main__":
    anyio.run(streaming.main)
