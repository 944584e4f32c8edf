"""docs/s5-formats.md, sections 1 to 4: limits, contents, and every known answer."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.s5.formats.vectors import VECTORS

from fabstir.s5.formats import limits

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "s5-formats.md").read_text("utf-8")
SECTIONS = TEXT[: TEXT.index("\n## 5. ")]
BLOCKS: list[dict[str, Any]] = [
    json.loads(block) for block in re.findall(r"```json\n(.*?)```", SECTIONS, re.DOTALL)
]


def name_of(block: dict[str, Any]) -> str:
    return cast("str", block["vector"])


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_a_known_answer_is_computed(block: dict[str, Any]) -> None:
    computed = VECTORS[block["vector"]](block["in"])

    if "bytes" in block:  # explained byte by byte: the parts make the whole
        assert "".join(part for part, _ in block["bytes"]) == computed
    else:
        assert block["out"] == computed


def test_every_known_answer_is_in_the_document() -> None:
    assert {block["vector"] for block in BLOCKS} == set(VECTORS)


def test_the_limits_are_those_of_the_code() -> None:
    section = TEXT[TEXT.index("\n## 2. ") : TEXT.index("\n## 3. ")]

    written = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE))

    assert {name: int(value) for name, value in written.items()} == {
        name: value for name, value in vars(limits).items() if name.isupper()
    }


def test_the_contents_are_those_of_the_document() -> None:
    headings = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]

    contents = re.findall(r"^- \[(.+)\]\(#(.+)\)$", TEXT, re.MULTILINE)

    assert contents == list(zip(headings, anchors, strict=True))
