"""`make bench-s5`: the store, the doors and the directories of S5, as tables.

Machines are noisy: each table has what it is compared with in the same run. `--quick` makes all of
it small, to see that it works; `--only NAME` runs one part.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from bench import s5_directory, s5_doors, s5_fetch, s5_hamt, s5_portal, s5_store, s5_uploads
from bench.s5_measure import GIB, MIB

Part = Callable[[Path], Awaitable[None]]


def parts(*, is_quick: bool) -> dict[str, Part]:
    """What can be measured, by name, in the order in which it is."""
    sizes = s5_store.QUICK_PUT_AND_GET if is_quick else s5_store.PUT_AND_GET
    large = 64 * MIB if is_quick else GIB

    async def doors(folder: Path) -> None:
        async with s5_doors.running_node(folder) as client:
            await s5_doors.put_and_get(client, sizes)

    async def hamt(_folder: Path) -> None:
        print("\n### Directories as trees\n")
        await s5_hamt.main([1005] if is_quick else [1005, 40_000, 1_000_000])

    async def portal(_folder: Path) -> None:
        print("\n### Through a portal\n")
        print(s5_portal.table(await s5_portal.measure(20 if is_quick else 200)))

    streamed = s5_store.QUICK_STREAMED if is_quick else s5_store.STREAMED
    return {
        "store": lambda folder: s5_store.put_and_get(folder, sizes),
        "cp": lambda folder: s5_store.against_cp(folder, large, 2 if is_quick else 3),
        "uploads": lambda folder: s5_uploads.resumable(folder, large, 2 if is_quick else 3),
        "doors": doors,
        "directory": lambda folder: s5_directory.puts(
            folder, 50 if is_quick else 500, (100,) if is_quick else (100, 1000, 10_000)
        ),
        "memory": lambda folder: s5_store.memory(folder, streamed),
        "start": lambda folder: s5_store.start_up(folder, 20_000 if is_quick else 1_000_000),
        "fetch": lambda folder: s5_fetch.from_sources(folder, large),
        "portal": portal,
        "hamt": hamt,
    }


async def main(*, is_quick: bool, only: str | None, place: Path | None) -> None:
    """Run and print."""
    cores = os.cpu_count()
    print(
        f"{platform.system()} {platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    )
    for name, measure in parts(is_quick=is_quick).items():
        if only in {None, name}:
            folder = Path(tempfile.mkdtemp(prefix=f"fabstir-bench-{name}-", dir=place))
            try:
                await measure(folder)
            finally:
                shutil.rmtree(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.s5", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--only", choices=list(parts(is_quick=True)), help="one part")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    # As `fabstir s5 serve` runs.
    anyio.run(
        lambda: main(is_quick=given.quick, only=given.only, place=given.folder),
        backend_options={"use_uvloop": True},
    )
