"""A node behind its doors in a process of its own: FOLDER. Says its URL and the owner's token."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from tests.integration.s5.door.door import open_door

from fabstir.s5.transfer import resumable

SYNC_BYTES = 256 * 1024
"""So that a small upload is acknowledged in many steps."""


async def main(folder: str) -> None:
    async with open_door(Path(folder)) as door:
        token = door.owner.headers["authorization"].removeprefix("Bearer ")
        sys.stdout.write(f"{door.url} {token}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    resumable.SYNC_BYTES = SYNC_BYTES
    anyio.run(main, sys.argv[1])
