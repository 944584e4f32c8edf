"""Runs an engine, says the child's pid, and waits to be killed."""

import os
import sys
from pathlib import Path

import anyio

from fabstir.engines import LlamaCppConfig, open_llamacpp


async def main(model: Path) -> None:
    config = LlamaCppConfig(
        model_path=model,
        max_model_len=256,
        num_slots=1,
        cache_dir=model.parent,
        model_digest="x",
        num_threads=1,
    )
    async with open_llamacpp(config, on_progress=lambda _text: None):
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
        sys.stdout.write(children.split()[0] + "\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


anyio.run(main, Path(sys.argv[1]))
