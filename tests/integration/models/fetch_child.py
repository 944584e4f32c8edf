"""Fetches a model in a process of its own, saying how far it is: URL SHA256 FOLDER."""

import sys
from functools import partial
from pathlib import Path

import anyio

from fabstir.models import ModelSpec, UrlSource, fetch_model
from fabstir.primitives.ids import parse_hash32


def main(url: str, sha256: str, folder: str) -> None:
    source = UrlSource(url=url)
    spec = ModelSpec(repo="org/tiny", file="tiny.gguf", sha256=parse_hash32(sha256), source=source)
    fetch = partial(fetch_model, spec, Path(folder), on_progress=report)
    sys.stdout.write(f"path {anyio.run(fetch)}\n")


def report(done: int, total: int) -> None:
    sys.stdout.write(f"{done} {total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
