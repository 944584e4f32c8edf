"""What a server holds answers to is asked once for a build and a model, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.engines.conftest import MakeConfig

from fabstir.engines.llamacpp.forms import JsonForms
from fabstir.engines.llamacpp.launcher import ThreadCounts, open_child
from fabstir.protocol.capabilities import ModelCapability

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BOTH = {ModelCapability.JSON_OBJECT, ModelCapability.JSON_SCHEMA}


async def test_it_is_asked_only_if_it_is_not_known(make_config: MakeConfig, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    async with open_child(make_config(), ThreadCounts(1, 1)) as child:
        asked = await JsonForms.of(child.address, known)
        written = known.read_text()
        known.write_text('["json_object"]')  # another answer than this server's
        read = await JsonForms.of(child.address, known)
        again: list[JsonForms] = []
        for damaged in ("", "nonsense", "7", "[]", '["no such"]', '{"a": 1}'):
            known.write_text(damaged)
            again.append(await JsonForms.of(child.address, known))
        nowhere = await JsonForms.of(child.address, tmp_path / "no such folder" / "known.json")

    assert asked.capabilities == BOTH
    assert written == '["json_object", "json_schema"]'
    assert read.capabilities == {ModelCapability.JSON_OBJECT}
    assert [*again, nowhere] == [asked] * 7
