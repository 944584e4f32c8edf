"""docs/s5-formats.md, sections 5 to 9: every known answer is what the code computes."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.s5.formats.key_vectors import VECTORS

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "s5-formats.md").read_text("utf-8")
SECTIONS = TEXT[TEXT.index("\n## 5. ") :]
BLOCKS: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"```json\n(.*?)```", SECTIONS, re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: cast("str", block["vector"]))
def test_a_known_answer_is_computed(block: dict[str, Any]) -> None:
    computed = VECTORS[block["vector"]](block["in"])

    if "bytes" in block:  # explained byte by byte: the parts make the whole
        assert "".join(part for part, _ in block["bytes"]) == computed
    else:
        assert block["out"] == computed


def test_every_known_answer_is_in_the_document() -> None:
    assert {block["vector"] for block in BLOCKS} == set(VECTORS)
