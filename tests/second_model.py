"""A second real model for the tests, made from the demo's: its first layers, as a file of its own.

It writes text without sense, which is all that a test of two models needs: another digest, other
answers, half of the memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter

from fabstir.models import DEMO_MODEL, ModelSpec
from fabstir.models.files import sha256_of

NUM_LAYERS = 8
"""Of the demo model's 30."""

REPO = "fabstir/tests"
FILE = f"SmolLM2-135M-Instruct.first-{NUM_LAYERS}-layers.Q4_1.gguf"

_BLOCK_COUNT = "llama.block_count"


async def second_model(demo: Path, cache: Path) -> tuple[ModelSpec, Path]:
    """The model and its file, which is made once per machine: 50 MB, beside the demo's.

    Args:
        cache: folder of models; the file's name in it has the digest of what it was made of.
    """
    path = cache / "made" / DEMO_MODEL.sha256[2:18] / FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / FILE
            write_first_layers(demo, made)
            made.replace(path)  # whole or not at all: other workers make it too
    return ModelSpec(repo=REPO, file=FILE, sha256=await sha256_of(path)), path


def write_first_layers(source: Path, target: Path, num_layers: int = NUM_LAYERS) -> None:
    """Copy a model of llama's kind without the layers from `num_layers` on."""
    reader: Any = GGUFReader(source)
    writer: Any = GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer's own
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        value = num_layers if name == _BLOCK_COUNT else field.contents()
        writer.add_key_value(name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        if _layer(tensor.name) < num_layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _layer(tensor_name: str) -> int:
    """Of `blk.7.attn_q.weight`: 7; what belongs to no layer counts as the first's."""
    kind, _, rest = tensor_name.partition(".")
    return int(rest.partition(".")[0]) if kind == "blk" else 0
