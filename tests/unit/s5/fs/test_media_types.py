"""What a name's ending says of a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.s5.fs import guess_media_type
from fabstir.s5.fs.values import DEFAULT_MEDIA_TYPE


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("README.md", "text/markdown"),
        ("lines.jsonl", "application/jsonl"),
        ("page.HTML", "text/html"),
        ("app.mjs", "text/javascript"),
        ("app.wasm", "application/wasm"),
        ("picture.webp", "image/webp"),
        ("a.tar.gz", "application/gzip"),
        ("a.tar", "application/x-tar"),
        ("model.gguf", DEFAULT_MEDIA_TYPE),
        ("data:text/html,x", DEFAULT_MEDIA_TYPE),
        ("Makefile", DEFAULT_MEDIA_TYPE),
        (".md", DEFAULT_MEDIA_TYPE),
    ],
)
def test_the_ending_decides(name: str, media_type: str) -> None:
    assert guess_media_type(name) == media_type


@given(st.text())
def test_every_name_has_one(name: str) -> None:
    assert "/" in guess_media_type(name)
