"""`python -m bench`: every benchmark, each a table with its peer measured in the same run."""

import anyio

from bench import streaming

if __name__ == "__main__":
    # As `fabstir serve` runs.
    anyio.run(streaming.main, backend_options={"use_uvloop": True})
