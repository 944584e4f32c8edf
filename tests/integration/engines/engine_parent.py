"""Runs an engine, says "loading" and "ready", and waits to be killed."""

import sys
from pathlib import Path

import anyio

from fabstir.engines.llamacpp import LlamaCppConfig, open_llamacpp


def say(text: str) -> None:
    sys.stdout.write(text.split()[0] + "\n")
    sys.stdout.flush()


async def main(model: Path) -> None:
    config = LlamaCppConfig(
        model_path=model,
        max_model_len=256,
        num_slots=1,
        cache_dir=model.parent,
        model_digest="x",
        num_threads=1,
    )
    async with open_llamacpp(config, on_progress=say):
        say("ready")
        await anyio.sleep_forever()


anyio.run(main, Path(sys.argv[1]))
