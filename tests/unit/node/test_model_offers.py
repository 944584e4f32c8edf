"""Which models the settings name, and what is asked for each."""

from pathlib import Path

import pytest

from fabstir.config import Settings, load_settings
from fabstir.engines.openai import ServerProfile
from fabstir.models import DEMO_MODEL
from fabstir.node.models import model_offers, model_prices, url_engine_config
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import NATIVE_TOKEN, Address
from fabstir.primitives.units import Wei, price_from_million

USDC = Address("0x" + "cc" * 20)
ONE = '{repo = "org/one", file = "one.gguf", sha256 = "' + "ab" * 32 + '"'


def settings_of(folder: Path, models: str, **overrides: str) -> Settings:
    (folder / "config.toml").touch()
    given = {name.replace("__", "."): text for name, text in overrides.items()}
    return load_settings(
        file=folder / "config.toml", environ={}, overrides={"models": models, **given}
    )


def test_without_any_it_is_the_demo_model(tmp_path: Path) -> None:
    (offer,) = model_offers(settings_of(tmp_path, ""))

    assert (offer.where, offer.spec) == ("model", DEMO_MODEL)


def test_each_table_is_one(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"[{ONE}}}, {{num_slots = 2}}]")

    first, second = model_offers(settings)

    assert (first.where, first.name) == ("models[1]", "org/one:one.gguf")
    assert (second.where, second.spec, second.wanted.num_slots) == ("models[2]", DEMO_MODEL, 2)


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (f"[{ONE}}}, {ONE}}}]", "models[1] and models[2] are both org/one:one.gguf"),
        ("[{num_slots = 1}, {num_slots = 2}]", "models[1] and models[2] are both Quant"),
        (
            f"[{ONE}}}, {ONE.replace('org/one', 'org').replace('one.gguf', 'one/one.gguf')}}}]",
            "models[1] and models[2] are both org:one/one.gguf",
        ),
    ],
    ids=["twice", "demo", "same id"],
)
def test_two_of_one_name_are_refused(tmp_path: Path, models: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        model_offers(settings_of(tmp_path, models))

    assert says in str(refused.value)


def test_the_single_model_counts_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model and models\[1\] are both"):
        model_offers(settings_of(tmp_path, "[{num_slots = 1}]", model__num_slots="2"))


def test_a_model_has_its_own_price_or_the_hosts(tmp_path: Path) -> None:
    models = f"[{ONE}, price_native_per_million = 7000000}}, {{num_slots = 1}}]"
    settings = settings_of(tmp_path, models)
    first, second = model_offers(settings)

    prices = model_prices(settings, USDC)

    host = settings.host
    assert prices[first.model_id][NATIVE_TOKEN] == price_from_million(Wei(7_000_000))
    assert prices[second.model_id][NATIVE_TOKEN] == price_from_million(
        host.price_native_per_million
    )
    for each in (first, second):
        assert prices[each.model_id][USDC] == price_from_million(host.price_usdc_per_million)


ELSEWHERE = ONE + ', path = "/m/one.gguf", engine_url = "http://gpu.lan:8000", num_slots = 9'


def test_an_engine_elsewhere_is_asked_as_the_settings_say(tmp_path: Path) -> None:
    key = tmp_path / "server.key"
    key.write_text("secret\n")
    key.chmod(0o600)
    settings = settings_of(
        tmp_path, f'[{ELSEWHERE}, engine_key_file = "{key}", engine_profile = "vllm"}}]'
    )

    (offer,) = model_offers(settings)
    config = url_engine_config(settings, offer, Path("/m/one.gguf"), "http://gpu.lan:8000")

    assert offer.is_elsewhere
    assert (config.where, config.num_slots, config.api_key) == ("models[1]", 9, "secret")
    assert config.profile is ServerProfile.VLLM
    assert "secret" not in repr(config)


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f'[{ELSEWHERE}, engine_key_file = "/no/such.key"}}]')
    (offer,) = model_offers(settings)

    with pytest.raises(ConfigError, match=r"models\[1\]\.engine_key_file is /no/such.key"):
        url_engine_config(settings, offer, Path("/m/one.gguf"), "http://gpu.lan:8000")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ('engine_url = "http://a"', "models[1].path: set it to the file that the server"),
        ('engine_model = "a"', "models[1].engine_model are of an engine elsewhere"),
        ('engine_profile = "vllm"', "set models[1].engine_url as well"),
    ],
)
def test_what_an_engine_elsewhere_lacks_is_named(tmp_path: Path, settings: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        model_offers(settings_of(tmp_path, f"[{ONE}, {settings}}}]"))

    assert says in str(refused.value)
