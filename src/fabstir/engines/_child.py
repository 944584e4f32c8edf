"""The child process: runs one engine for as long as its parent lives.

`python -m fabstir.engines._child` reads its orders as one line of JSON on standard input, so that
the key of the server stands in no argument list. Standard input then stays open: its end means
that the parent is gone, however it died, and the child ends too. It prints one line of JSON:
where the server listens.
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
from typing import Any


def main() -> None:
    """Start what the orders name, and stay until standard input ends."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    if orders["server_binary"]:
        _run_binary(orders)
    else:
        _run_wheel(orders)


def _run_wheel(orders: dict[str, Any]) -> None:
    # By name: it comes with no types, and a renter's installation does not have it.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params: Any = xllamacpp.CommonParams()
    params.model.path = orders["model_path"]
    params.n_ctx = orders["max_model_len"] * orders["num_slots"]
    params.n_parallel = orders["num_slots"]
    params.cpuparams.n_threads = orders["num_threads"]
    params.cpuparams_batch.n_threads = orders["num_batch_threads"]
    params.n_gpu_layers = orders["num_gpu_layers"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [orders["api_key"]]
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.use_jinja = True
    params.ui = False
    params.verbosity = 0
    server: Any = xllamacpp.Server(params)
    _announce(int(str(server.listening_address).rpartition(":")[2]))
    sys.stdin.read()
    # No orderly end: there is nothing to save, and the parent may be waiting for the memory.
    os._exit(0)


def _run_binary(orders: dict[str, Any]) -> None:
    port = _free_port()
    command = [
        *(orders["server_binary"], "--model", orders["model_path"]),
        *("--ctx-size", str(orders["max_model_len"] * orders["num_slots"])),
        *("--parallel", str(orders["num_slots"])),
        *("--threads", str(orders["num_threads"])),
        *("--threads-batch", str(orders["num_batch_threads"])),
        *("--n-gpu-layers", str(orders["num_gpu_layers"])),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--metrics", "--slots", "--jinja", "--no-webui"),
    ]
    environment = {**os.environ, "LLAMA_API_KEY": orders["api_key"]}
    with subprocess.Popen(command, env=environment, stdout=sys.stderr) as server:

        def end_with_parent() -> None:
            sys.stdin.read()
            server.kill()

        threading.Thread(target=end_with_parent, daemon=True).start()
        _announce(port)
        sys.exit(server.wait())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _announce(port: int) -> None:
    sys.stdout.write(json.dumps({"port": port}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Ctrl-C goes to the whole group; the parent decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
