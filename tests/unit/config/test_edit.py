"""Changing the file keeps all that was not asked for."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.config import load_settings, set_settings
from fabstir.config.values import to_toml
from fabstir.primitives.errors import ConfigError

COMMENTED = """\
# my host
[host]
port = 8080   # behind nginx
location = "a # b"  # where

[p2p]
port = 9000
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "folder" / "config.toml"
    file.parent.mkdir()
    file.write_text(COMMENTED)
    return file


def test_only_the_value_changes(config_file: Path) -> None:
    set_settings(config_file, {"host.port": "81", "host.location": 'c"d'})

    assert config_file.read_text() == COMMENTED.replace("8080", "81").replace("a # b", 'c\\"d')


def test_a_new_setting_goes_into_its_section(config_file: Path) -> None:
    set_settings(config_file, {"host.auto_register": "true"})

    expected = COMMENTED.replace("# where\n", "# where\nauto_register = true\n")
    assert config_file.read_text() == expected


def test_a_new_section_goes_to_the_end(config_file: Path) -> None:
    set_settings(config_file, {"chain.ws_url": "ws://127.0.0.1:1"})

    assert config_file.read_text() == COMMENTED + '\n[chain]\nws_url = "ws://127.0.0.1:1"\n'


def test_an_absent_file_is_created(tmp_path: Path) -> None:
    file = tmp_path / "new" / "config.toml"

    set_settings(file, {"p2p.bootstrap": "a,b"})

    assert file.read_text() == '[p2p]\nbootstrap = ["a", "b"]\n'


def test_nothing_removes_an_optional_setting(config_file: Path) -> None:
    set_settings(config_file, {"p2p.ws_port": "9001"})

    set_settings(config_file, {"p2p.ws_port": ""})

    assert config_file.read_text() == COMMENTED


def test_settings_that_need_each_other_are_set_together(config_file: Path) -> None:
    model = {"model.repo": "a/b", "model.file": "c.gguf"}

    with pytest.raises(ConfigError, match=r"model\.sha256 must be set too"):
        set_settings(config_file, model)
    assert config_file.read_text() == COMMENTED
    set_settings(config_file, model | {"model.sha256": "0" * 64})

    assert load_settings(file=config_file, environ={}).model.repo == "a/b"


@pytest.mark.parametrize(
    "text",
    ["[p2p]\nbootstrap = [\n  'a',\n]\n", "p2p = {bootstrap = []}\n", "p2p.bootstrap = []\n"],
)
def test_a_form_that_it_cannot_change_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=r"write it by hand as `bootstrap = \[\"b\"\]`"):
        set_settings(file, {"p2p.bootstrap": "b"})

    assert file.read_text() == text


def test_a_wrong_value_changes_nothing(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"host\.port is 'x'"):
        set_settings(config_file, {"host.port": "x"})

    assert config_file.read_text() == COMMENTED
    assert list(config_file.parent.iterdir()) == [config_file]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_as_toml(text: str) -> None:
    assert tomllib.loads(f"value = {to_toml(text)}") == {"value": text}


def test_tables_of_models_are_kept_and_not_written(config_file: Path) -> None:
    text = COMMENTED + "\n[[models]]\nnum_slots = 2\n"
    config_file.write_text(text)

    set_settings(config_file, {"model.num_slots": "3"})

    assert config_file.read_text() == text + "\n[model]\nnum_slots = 3\n"
    with pytest.raises(ConfigError, match=r"write \[\[models\]\] into the file by hand"):
        set_settings(config_file, {"models": "[{num_slots = 1}]"})
