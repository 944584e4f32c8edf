"""Model servers of the conformance tests: each a process that is reached by its URL alone."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = 512
MODEL_NAME = "conformance"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ModelServer:
    """One server, which can be ended and started again at the same place.

    Attributes:
        command: without its port, which follows.
        log: where what it says is written.
    """

    command: Sequence[str]
    key: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [each.format(port=self.port, key=self.key) for each in self.command]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """To all of its processes."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        if self.process is not None:
            self.send(signal.SIGKILL)
            self.process.wait()


def llama_server(model: Path, folder: Path) -> ModelServer:
    """The wheel's own, started by hand."""
    script = Path(__file__).with_name("plain_server.py")
    command = [sys.executable, "-P", str(script), str(model), "{port}", "{key}"]
    return ModelServer(command, secrets.token_hex(8), folder / "llama-server.log")


def vllm_server(program: Path, weights: Path, template: Path, folder: Path) -> ModelServer:
    """vLLM on this machine's processor, from the environment that `make test-vllm` makes."""
    command = [
        *(str(program), "serve", str(weights)),
        *("--served-model-name", MODEL_NAME, "--chat-template", str(template)),
        *("--host", "127.0.0.1", "--port", "{port}", "--api-key", "{key}"),
        *("--max-model-len", str(CONTEXT), "--max-num-seqs", "4", "--dtype", "float32"),
        "--enforce-eager",
    ]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, where it would take half of the machine
        "VLLM_NO_USAGE_STATS": "1",
    }
    return ModelServer(command, secrets.token_hex(8), folder / "vllm.log", environment)
