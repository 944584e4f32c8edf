"""Our reader of GGUF headers against the `gguf` package's, on real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from tests.second_model import write_first_layers

from fabstir.models.gguf import GgufArray, GgufValue, read_gguf

pytestmark = pytest.mark.integration


def plain(value: GgufValue) -> object:
    if not isinstance(value, GgufArray):
        return value
    return [item.decode() for item in value.strings()] or list(value.numbers())


def require_same(path: Path) -> None:
    header = read_gguf(path)
    theirs: Any = GGUFReader(path)

    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert {key: plain(value) for key, value in header.metadata.items()} == fields
    assert [
        (t.name, t.shape, t.kind.name, t.offset, t.num_bytes, t.num_elements)
        for t in header.tensors
    ] == [
        (
            t.name,
            tuple(t.shape.tolist()),
            t.tensor_type.name,
            int(t.data_offset),
            int(t.n_bytes),
            int(t.n_elements),
        )
        for t in theirs.tensors
    ]
    assert header.alignment == theirs.alignment


def test_a_real_model_reads_as_the_gguf_package_reads_it(demo_model: Path, tmp_path: Path) -> None:
    made = tmp_path / "first-layers.gguf"
    write_first_layers(demo_model, made, num_layers=1)

    require_same(demo_model)
    require_same(made)
