"""The tables in docs/ say what the code says."""

import dataclasses
import json
import re
from pathlib import Path

from fabstir.config import SettingValue, load_settings
from fabstir.config.settings import SETTING_TYPES
from fabstir.node.metrics import HostMetrics
from fabstir.node.reachability import P2PMetrics
from fabstir.s5.run.metrics import S5Metrics
from fabstir.telemetry.metrics import MetricsRegistry
from fabstir.web.inbound.door_metrics import DoorMetrics

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_setting_is_documented_with_default_and_range(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.touch()
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    sections = re.split(r"^## \[(\w+)\]$", text, flags=re.MULTILINE)[1:]
    row = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)

    documented = {
        f"{section}.{name}": (default, allowed)
        for section, body in zip(sections[::2], sections[1::2], strict=True)
        for name, default, allowed in row.findall(body)
    }

    assert documented == {
        value.name: (in_words(value, tmp_path), SETTING_TYPES[value.name].expected.split(" (in")[0])
        for value in load_settings(file=file, environ={}).describe()
    }


def in_words(value: SettingValue, folder: Path) -> str:
    """How the document writes a default."""
    if value.name.startswith("paths."):
        return f"the user's {value.name.removeprefix('paths.').removesuffix('_dir')} folder"
    if value.value is None:
        return "-"
    if SETTING_TYPES[value.name].base is Path:
        return f"`{Path(str(value.value)).relative_to(folder)}`"
    return f"`{json.dumps(value.value)}`"


def test_every_metric_is_documented_with_its_type() -> None:
    registry = MetricsRegistry()
    parts = (
        HostMetrics.of(registry),
        P2PMetrics.of(registry),
        S5Metrics.of(registry),
        DoorMetrics.of(registry),
    )
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")

    documented = dict(
        re.findall(r"^\| `(fabstir_\w+?)(?:_total)?` \| (\w+) \|", text, re.MULTILINE)
    )

    ours = {m.name: m.type for m in registry.collector.collect() if m.name.startswith("fabstir_")}
    assert len(ours) == sum(len(dataclasses.fields(part)) for part in parts)
    assert documented == ours
