"""Names of models, which strangers may choose, as places on this machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.models import DEMO_MODEL, HubSource, ModelSpec
from fabstir.primitives.ids import Hash32

DIGEST = Hash32("0x" + "ab" * 32)
FOLDER = Path("/models")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "a/../../b", "a//b", "a/", "./a", "a\\b", "a\0b"]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        ModelSpec(repo=name, file="m.gguf", sha256=DIGEST)
    with pytest.raises(ValueError, match="not a relative path"):
        ModelSpec(repo="org/m", file=name, sha256=DIGEST)


@given(st.text(), st.text())
def test_every_accepted_name_stays_in_the_folder(repo: str, file: str) -> None:
    try:
        spec = ModelSpec(repo=repo, file=file, sha256=DIGEST)
    except ValueError:
        return

    path = spec.path_in(FOLDER)

    assert path.is_relative_to(FOLDER)
    assert ".." not in path.parts
    assert path != FOLDER


def test_a_hub_address_keeps_the_path_and_quotes_the_rest() -> None:
    hub = HubSource(endpoint="https://hub.example/", revision="refs/pr/1")

    assert (
        hub.url("org/model", "q4/a b?.gguf")
        == "https://hub.example/org/model/resolve/refs%2Fpr%2F1/q4/a%20b%3F.gguf"
    )


def test_the_demo_model_has_a_source_and_a_place() -> None:
    assert DEMO_MODEL.source is not None
    assert DEMO_MODEL.path_in(FOLDER).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
