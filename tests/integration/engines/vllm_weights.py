"""Unpacks a GGUF file into what vLLM loads: `vllm_weights.py GGUF FOLDER`, by vLLM's Python."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def main(source: Path, target: Path) -> None:
    transformers: Any = importlib.import_module("transformers")
    place = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    model = transformers.AutoModelForCausalLM.from_pretrained(**place)
    # They are plain numbers now, and it would refuse to write them as what they were.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


main(Path(sys.argv[1]), Path(sys.argv[2]))
