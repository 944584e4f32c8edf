"""The files of models, which strangers make and native code loads."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fabstir.models.gguf import GgufArray, parse_gguf
from fabstir.primitives.errors import ModelNotGguf


def gguf_header(data: bytes) -> None:
    """A file: what is taken from it lies in it."""
    with suppress(ModelNotGguf):
        header = parse_gguf(io.BytesIO(data), len(data), "fuzzed")
        for value in header.metadata.values():
            if isinstance(value, GgufArray):
                assert len(list(value.strings()) or value.numbers()) == value.length
        for tensor in header.tensors:
            assert 0 <= tensor.offset <= tensor.offset + tensor.num_bytes <= len(data)
        assert header.weight_bytes <= len(data)


MODEL_TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"gguf_header": gguf_header}
