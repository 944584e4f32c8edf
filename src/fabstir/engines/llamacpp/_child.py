"""Runs one engine for as long as its parent lives.

`python -P _child.py` reads its orders as one line of JSON on standard input, so that the key of the
server stands in no argument list. Standard input then stays open: its end means that the parent is
gone, however it died, and the child ends too. It prints one line of JSON: where the server listens.

It is started by its path and imports nothing of ours: with our packages it starts 0.3 s later.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

_CACHE_MIB = 1024
"""Memory for prompts of conversations that lost their slot. llama.cpp's own default is 8 GiB,
which ends a small machine instead of helping it."""


def main() -> None:
    """Start what the orders name, and stay until standard input ends."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    announcements = _reserved_stdout()
    if orders["server_binary"]:
        _run_binary(orders, announcements)
    else:
        _run_wheel(orders, announcements)


def _reserved_stdout() -> TextIO:
    """Keep standard output for the one line; what native code prints goes to standard error."""
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return ours


def _run_wheel(orders: dict[str, Any], announcements: TextIO) -> None:
    # No orderly end: there is nothing to save, and the parent may be waiting for the memory.
    _when_parent_is_gone(lambda: os._exit(0))

    # By name: it comes with no types, and a renter's installation does not have it.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params: Any = xllamacpp.CommonParams()
    params.model.path = orders["model_path"]
    params.n_ctx = orders["max_model_len"] * orders["num_slots"]
    params.n_parallel = orders["num_slots"]
    params.cpuparams.n_threads = orders["num_threads"]
    params.cpuparams_batch.n_threads = orders["num_batch_threads"]
    params.n_gpu_layers = orders["num_gpu_layers"]
    # What it would fit to the memory is ordered above; to look, it reads the model twice (0.25 s).
    params.fit_params = False
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [orders["api_key"]]
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.use_jinja = True
    params.cache_ram_mib = _CACHE_MIB
    params.ui = False
    params.verbosity = 1  # errors only: at 3 it would print what people ask
    try:
        server: Any = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(str(error))  # the reasons stand before it, on standard error
    _announce(announcements, int(str(server.listening_address).rpartition(":")[2]))
    signal.pause()


def _run_binary(orders: dict[str, Any], announcements: TextIO) -> None:
    port = _free_port()
    command = [
        *(orders["server_binary"], "--model", orders["model_path"]),
        *("--ctx-size", str(orders["max_model_len"] * orders["num_slots"])),
        *("--parallel", str(orders["num_slots"])),
        *("--threads", str(orders["num_threads"])),
        *("--threads-batch", str(orders["num_batch_threads"])),
        *("--n-gpu-layers", str(orders["num_gpu_layers"])),
        *("--cache-ram", str(_CACHE_MIB)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--metrics", "--slots", "--jinja"),
    ]
    environment = {**os.environ, "LLAMA_API_KEY": orders["api_key"]}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as server:
        _when_parent_is_gone(server.kill)
        _announce(announcements, port)
        sys.exit(server.wait())


def _when_parent_is_gone(end: Callable[[], None]) -> None:
    def watch() -> None:
        # Not sys.stdin: its lock would be held when the interpreter ends, which aborts it.
        while os.read(0, 1):
            pass
        end()

    threading.Thread(target=watch, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _announce(announcements: TextIO, port: int) -> None:
    announcements.write(json.dumps({"port": port}) + "\n")
    announcements.flush()


if __name__ == "__main__":
    # Ctrl-C goes to the whole group; the parent decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
