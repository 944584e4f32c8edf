"""Runs the wheel's llama-server as anybody would run one: `plain_server.py MODEL PORT KEY`.

It says where it listens, and ends when it is killed.
"""

import importlib
import signal
import sys
from typing import Any


def main(model: str, port: str, key: str) -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params: Any = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 4 * 512
    params.n_parallel = 4
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.fit_params = False
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.api_keys = [key]
    params.endpoint_metrics = True
    params.use_jinja = True
    params.ui = False
    params.verbosity = 1
    server: Any = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    signal.pause()


main(*sys.argv[1:])
