"""Writes into a tree until it is killed; says before each step what it does, and after it so.

Run as a program it forks one writer for every line "SEED" on its input, so that a kill costs no
start of an interpreter. Output: "pid N" of the writer, then its "begin JSON" and "ack" lines.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

import anyio

from fabstir.crypto import NATIVE
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs import FileSystem
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry, open_store

OWNER = "owner"
NUM_NAMES = 8

Step = dict[str, Any]


def file_system_of(store: BlobStore) -> FileSystem:
    keys = Identity(b"\4" * 16, NATIVE).file_system_root()
    return FileSystem(
        LocalBlobs(store, OWNER),
        LocalRegistry(store, NATIVE),
        Capability.of_keys(keys, writable=True),
        NATIVE,
        max_versions=1,
    )


def say(line: str) -> None:
    """A line for whoever kills."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def content(tag: str, size: int) -> bytes:
    return tag.encode() * size


def next_step(random: Random, seed: str, number: int) -> Step:
    """A step, from a number generator that the checker needs not know."""
    tag = f"{seed}.{number}."
    path = f"d{random.randrange(2)}/e{random.randrange(2)}/{random.randrange(NUM_NAMES)}"
    size = random.choice([0, 1, 100, 20_000, 60_000, 200_000])
    match random.randrange(10):
        case 0:
            return {"do": "delete", "path": path}
        case 1 | 2:
            to = f"d{random.randrange(2)}/e{random.randrange(2)}/{random.randrange(NUM_NAMES)}"
            return {"do": "move", "path": path, "to": to}
        case 3 | 4 | 5:
            folders = [f"b{random.randrange(3)}/{random.randrange(3)}" for _ in range(2)]
            files = [f"{folder}/{n}" for folder in folders for n in range(4)]
            return {"do": "batch", "paths": sorted(set(files)), "tag": tag, "size": size % 1000}
        case 6:
            return {"do": "vacuum"}
        case _:
            return {"do": "put", "path": path, "tag": tag, "size": size}


async def carry_out(fs: FileSystem, store: BlobStore, step: Step) -> None:
    match step["do"]:
        case "put":
            await fs.put(step["path"], content(step["tag"], step["size"]))
        case "batch":
            async with fs.batch() as batch:
                for path in step["paths"]:
                    await batch.put(path, content(step["tag"], step["size"]))
        case "delete":
            if await fs.exists(step["path"]):
                await fs.delete(step["path"])
        case "move":
            if await fs.exists(step["path"]):
                await fs.make_directory(step["to"].rpartition("/")[0])
                await fs.move(step["path"], step["to"], overwrite=True)
        case _:
            await fs.vacuum(store.pins(OWNER), min_age=-60)
            await store.collect(grace_seconds=-60)


async def write_until_killed(folder: Path, seed: str) -> None:
    random = Random(seed)
    async with open_store(folder, NATIVE) as store:
        fs = file_system_of(store)
        for number in range(10_000):
            step = next_step(random, seed, number)
            say(f"begin {json.dumps(step)}")
            await carry_out(fs, store, step)
            say("ack")


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            say(f"pid {os.getpid()}")
            anyio.run(write_until_killed, folder, line.strip())
            os._exit(0)
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    main()
