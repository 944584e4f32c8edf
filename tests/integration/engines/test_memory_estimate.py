"""The fit check's arithmetic against the memory of the real child."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.integration.engines.conftest import MakeConfig

from fabstir.engines.llamacpp.launcher import ThreadCounts, open_child
from fabstir.models.facts import model_facts
from fabstir.models.fit import need_in_ram
from fabstir.models.gguf import read_gguf

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BOUND = 0.10
"""How far estimate and measurement may be apart, as a share of the measurement. On the machine that
the constants were measured on it is 1 %."""

PROMPT_TOKENS = 500


def peak_bytes(pid: int) -> int:
    """The most that a process has had in memory: its own, and what it mapped and touched."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize(("max_model_len", "num_slots"), [(512, 1), (4096, 2)])
async def test_the_estimate_is_what_the_child_takes(
    make_config: MakeConfig, max_model_len: int, num_slots: int
) -> None:
    config = make_config(max_model_len=max_model_len, num_slots=num_slots)
    facts = model_facts(read_gguf(config.model_path))

    async with open_child(config, ThreadCounts(2, 2)) as child:
        prompt = [100 + index % 50 for index in range(PROMPT_TOKENS)]
        await child.address.post_json("/completion", {"prompt": prompt, "n_predict": 2})
        measured = peak_bytes(child.pid)

    need = need_in_ram(facts, max_model_len=max_model_len, num_slots=num_slots)
    assert abs(need.total - measured) <= BOUND * measured, f"{need}; measured {measured / 1e6} MB"
