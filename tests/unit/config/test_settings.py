"""Where settings come from, which one wins, and what each mistake is told."""

from pathlib import Path

import pytest

from fabstir.config import Settings, default_config_file, load_settings
from fabstir.primitives.errors import ConfigError


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(file: Path, text: str = "", **environ: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load_settings(file=file, environ=environ)


def refusal(file: Path, text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, text, **environ)
    return str(caught.value)


def test_each_layer_wins_over_the_one_below(config_file: Path) -> None:
    config_file.write_text("[host]\nport = 1\n[p2p]\nport = 1\n[metrics]\nport = 1\n")

    settings = load_settings(
        file=config_file,
        environ={"FABSTIR_HOST_PORT": "2", "FABSTIR_P2P_PORT": "2", "HOME": "/"},
        overrides={"host.port": "3"},
    )

    assert (settings.host.port, settings.p2p.port, settings.metrics.port) == (3, 2, 1)
    origins = {value.name: value.origin for value in settings.describe()}
    assert origins["host.port"] == "flag"
    assert origins["p2p.port"] == "environment"
    assert origins["metrics.port"] == "file"
    assert origins["chain.chain_id"] == "default"


def test_the_default_file_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    settings = load_settings(environ={})

    assert settings.file == default_config_file() == tmp_path / "fabstir" / "config.toml"
    assert settings.wallet.keystore == tmp_path / "fabstir" / "wallet.json"
    assert settings.origins == {}


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"

    with pytest.raises(ConfigError, match=r"there is no configuration file .*missing\.toml"):
        load_settings(file=missing, environ={})
    with pytest.raises(ConfigError, match="FABSTIR_CONFIG"):
        load_settings(environ={"FABSTIR_CONFIG": str(missing)})


def test_the_environment_can_name_the_file(config_file: Path) -> None:
    config_file.write_text("[host]\nport = 7\n")

    settings = load_settings(environ={"FABSTIR_CONFIG": str(config_file)})

    assert settings.host.port == 7


def test_paths_of_the_file_start_at_its_folder(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    text = '[wallet]\nkeystore = "keys/w.json"\n[paths]\ndata_dir = "~/data"\n'

    settings = load(config_file, text, FABSTIR_PATHS_CACHE_DIR="cache")

    assert settings.wallet.keystore == config_file.parent / "keys" / "w.json"
    assert settings.p2p.identity == config_file.parent / "identity.key"
    assert settings.paths.data_dir == Path("/home/someone/data")
    assert settings.paths.cache_dir == Path.cwd() / "cache"


def test_every_type_can_be_given_as_text(config_file: Path) -> None:
    settings = load(
        config_file,
        FABSTIR_HOST_PUBLIC="yes",
        FABSTIR_HOST_API_URL="https://host.example",
        FABSTIR_CHAIN_POLL_SECONDS="0.5",
        FABSTIR_CHAIN_WS_URL="",
        FABSTIR_P2P_BOOTSTRAP="/ip4/10.0.0.1/tcp/9000/p2p/a, /ip4/10.0.0.2/tcp/9000/p2p/b",
        FABSTIR_RENTER_DEPOSIT_NATIVE="10_000",
    )

    assert settings.host.public
    assert settings.chain.poll_seconds == 0.5
    assert settings.chain.ws_url is None
    assert settings.p2p.bootstrap == (
        "/ip4/10.0.0.1/tcp/9000/p2p/a",
        "/ip4/10.0.0.2/tcp/9000/p2p/b",
    )
    assert settings.renter.deposit_native == 10_000


def test_every_type_can_stand_in_the_file(config_file: Path) -> None:
    settings = load(
        config_file,
        '[chain]\npoll_seconds = 3\n[p2p]\nbootstrap = ["a", "b"]\n[host]\nauto_register = true\n',
    )

    assert settings.chain.poll_seconds == 3.0
    assert settings.p2p.bootstrap == ("a", "b")
    assert settings.host.auto_register


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[host]\nprot = 1", ["config.toml", "host.prot", "did you mean host.port?"]),
        ("[hosts]\nport = 1", ["config.toml", "hosts", "did you mean host?"]),
        ("port = 1", ["config.toml", "no setting port"]),
        ('[host]\nport = "1"', ["host.port is '1'", "a whole number from 0 to 65535"]),
        ("[host]\nport = 65536", ["host.port is 65536", "from 0 to 65535"]),
        ("[host]\nport = true", ["host.port is True", "a whole number"]),
        ("[host]\npublic = 1", ["host.public is 1", "true or false"]),
        ("[chain]\npoll_seconds = nan", ["chain.poll_seconds", "a number from 0.01"]),
        ('[chain]\nrpc_url = "ftp://x"', ["chain.rpc_url", "an http:// or https:// URL"]),
        ("[p2p]\nbootstrap = [1]", ["p2p.bootstrap", "a list of texts"]),
        ("[wallet]\nkeystore = ''", ["wallet.keystore", "a path"]),
        ("[host\nport = 1", ["config.toml is not TOML", "line 1"]),
        ("[host]\nlisten = 'localhost'", ["host.listen is 'localhost'", "an IP address"]),
        ("[host]\nlisten = '0.0.0.0'", ["host.listen is 0.0.0.0", "host.public = true"]),
        ("[p2p]\nlisten = '::'", ["p2p.listen is ::", "host.public = true"]),
        ("[host]\npublic = true", ["host.api_url is empty", "https://"]),
        ("[s5]\nlisten = '0.0.0.0'", ["s5.listen is 0.0.0.0", "s5.public = true"]),
        ("[s5]\nlisten = 'here'", ["s5.listen is 'here'", "an IP address"]),
        ("[s5]\npublic = true", ["s5.url is empty", "https://"]),
        ("[s5]\nportals = ['s5.example']", ["s5.portals has 's5.example'", "https://"]),
        ("[s5]\npeers = ['http://a/s5/p2p']", ["s5.peers has 'http://a/s5/p2p'", "wss://"]),
        ("[s5]\nportal_prices = ['a=1']", ["s5.portal_prices has 'a=1'", "=5.99"]),
        ("[s5]\nreplicas = 2", ["s5.replicas is 2", "name 0 other places", "s5.portals"]),
        ("[s5]\nreplicas = 17", ["s5.replicas is 17", "from 1 to 16"]),
        ("[model]\nrepo = 'a/b'", ["model.file and model.sha256 must be set too"]),
        (
            "[model]\nurl = 'http://a/b.gguf'\nhub = 'http://a'",
            ["model.url and model.hub are set", "choose one"],
        ),
        ("[model]\nhub = 'http://a'", ["model.hub is set, but no model", "model.sha256"]),
        ("[model]\nurl = 'ftp://a/b.gguf'", ["model.url", "http://"]),
        ("[model]\ncid = 'bafy'", ["model.cid is 'bafy'", "no S5 identifier", "s5 put"]),
    ],
)
def test_a_mistake_in_the_file_is_named(config_file: Path, text: str, parts: list[str]) -> None:
    message = refusal(config_file, text)

    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("FABSTIR_HOST_PROT", "1", ["FABSTIR_HOST_PROT", "did you mean FABSTIR_HOST_PORT?"]),
        ("FABSTIR_HOST_PORT", "many", ["FABSTIR_HOST_PORT: host.port is 'many'", "whole number"]),
        ("FABSTIR_HOST_PUBLIC", "maybe", ["host.public is 'maybe'", "true or false"]),
        ("FABSTIR_WALLET_KEYSTORE", "", ["wallet.keystore", "a path"]),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    config_file: Path, variable: str, value: str, parts: list[str]
) -> None:
    message = refusal(config_file, **{variable: value})

    for part in parts:
        assert part in message


def test_a_secret_is_refused_and_not_repeated(config_file: Path) -> None:
    message = refusal(config_file, FABSTIR_WALLET_PRIVATE_KEY="0xdeadbeef")

    assert "secrets never go into the settings" in message
    assert "0xdeadbeef" not in message


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff")

    with pytest.raises(ConfigError, match="not TOML in UTF-8"):
        load_settings(file=tmp_path / "config.toml", environ={})


def test_public_opens_both_listeners_whose_address_nobody_set(config_file: Path) -> None:
    text = "[host]\npublic = true\napi_url = 'https://host.example'\n"

    opened = load(config_file, text)
    kept = load(config_file, text + "listen = '127.0.0.1'\n")

    assert (opened.host.listen, opened.p2p.listen) == ("0.0.0.0", "0.0.0.0")
    assert (kept.host.listen, kept.p2p.listen) == ("127.0.0.1", "0.0.0.0")


def test_a_public_s5_node_listens_everywhere_unless_its_address_is_set(config_file: Path) -> None:
    text = "[s5]\npublic = true\nurl = 'https://s5.example'\n"

    opened = load(config_file, text)
    kept = load(config_file, text + "listen = '127.0.0.1'\n")

    assert (opened.s5.listen, kept.s5.listen) == ("0.0.0.0", "127.0.0.1")
    assert opened.host.listen == "127.0.0.1"


def test_copies_have_places(config_file: Path) -> None:
    text = "[s5]\nreplicas = 3\n"

    counted = load(config_file, text + "portals = ['https://a']\npeers = ['ws://b/s5/p2p']\n")
    public = load(config_file, text + "portals = ['public']\n")

    assert counted.s5.replicas == public.s5.replicas == 3


def test_describe_names_every_setting_once(config_file: Path) -> None:
    described = load(config_file).describe()

    names = [value.name for value in described]
    assert len(names) == len(set(names))
    assert "chain.rpc_url" in names
    assert all(name.count(".") == 1 for name in names)


TWO_MODELS = """\
[[models]]
repo = "org/one"
file = "one.gguf"
sha256 = "{digest}"
num_slots = 2

[[models]]
path = "demo.gguf"
""".format(digest="ab" * 32)


def test_models_are_tables_in_the_file(config_file: Path) -> None:
    settings = load(config_file, TWO_MODELS)

    first, second = settings.models
    assert (first.repo, first.file, first.num_slots) == ("org/one", "one.gguf", 2)
    assert second.path == config_file.parent / "demo.gguf"
    assert [where for where, _ in settings.served_models()] == ["models[1]", "models[2]"]
    described = {value.name: (value.value, value.origin) for value in settings.describe()}
    assert described["models[1].num_slots"] == (2, "file")
    assert "models[2].num_slots" not in described


@pytest.mark.parametrize(
    "text",
    [TWO_MODELS, '[{repo = "a/b", file = "c", sha256 = "' + "0" * 64 + '"}, {path = "demo.gguf"}]'],
    ids=["tables", "array"],
)
def test_models_are_toml_in_a_variable_or_flag(config_file: Path, text: str) -> None:
    config_file.write_text("[[models]]\nnum_slots = 1\n")

    by_variable = load(config_file, FABSTIR_MODELS=text)
    by_flag = load_settings(file=config_file, environ={}, overrides={"models": text})

    assert by_variable.models == by_flag.models
    assert len(by_flag.models) == 2
    assert by_flag.models[1].path == Path.cwd() / "demo.gguf"
    assert (by_variable.origins["models"], by_flag.origins["models"]) == ("environment", "flag")


def test_the_single_model_is_one_of_them_if_any_of_it_is_set(config_file: Path) -> None:
    alone = load(config_file)
    beside = load(config_file, "[model]\nnum_slots = 1\n" + TWO_MODELS)

    assert alone.served_models() == (("model", alone.model),)
    assert [where for where, _ in beside.served_models()] == ["model", "models[1]", "models[2]"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("models = 3", ["models is a list of tables", "[[models]]"]),
        ("models = [1]", ["models is a list of tables"]),
        ("[models]\nrepo = 'a'", ["models is a list of tables"]),
        ("[[models]]\nslots = 3", ["models[1].slots", "did you mean models[1].num_slots?"]),
        ("[[models]]\n[[models]]\nnum_slots = 0", ["models[2].num_slots is 0", "from 1 to 256"]),
        ("[[models]]\nrepo = 'a/b'", ["models[1].file and models[1].sha256", "must be set"]),
        ("[[models]]\nurl = 'http://a'\ncid = 'b'", ["models[1].cid and models[1].url", "one"]),
        ("[[models]]\n" * 33, ["33 tables", "at most 32"]),
    ],
)
def test_a_mistake_in_the_models_is_named(config_file: Path, text: str, parts: list[str]) -> None:
    message = refusal(config_file, text)

    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"), [("[{", "FABSTIR_MODELS: models is not TOML"), ("[[models]]\n[host]", "host")]
)
def test_a_mistake_in_the_variable_of_models_is_named(
    config_file: Path, text: str, part: str
) -> None:
    assert part in refusal(config_file, FABSTIR_MODELS=text)


@pytest.mark.parametrize("query", ["", "?password=s3cret"])
def test_a_databases_password_is_no_setting_and_is_not_shown(config_file: Path, query: str) -> None:
    user = "me" if query else "me:s3cret"
    url = f"postgresql://{user}@db.example/market{query}"

    said = refusal(config_file, f'[database]\nurl = "{url}"\n')

    assert "without a password, which is a file of its own (database.password_file)" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("repo", "file", "says"),
    [
        ("/abs/x", "x.gguf", "models[1].repo is '/abs/x', which is no relative path"),
        ("a/../b", "x.gguf", "models[1].repo is 'a/../b'"),
        ("a/b", "../x.gguf", "models[1].file is '../x.gguf'"),
        ("a/b", "", "models[1].file is ''"),
    ],
)
def test_a_model_whose_name_leads_out_of_the_folder_is_refused_by_its_setting(
    config_file: Path, repo: str, file: str, says: str
) -> None:
    text = f'[[models]]\nrepo = "{repo}"\nfile = "{file}"\nsha256 = "{"ab" * 32}"\n'

    assert says in refusal(config_file, text)


def test_two_models_of_one_name_are_refused_by_whatever_reads_the_settings(
    config_file: Path,
) -> None:
    one = f'[[models]]\nrepo = "a/b"\nfile = "x.gguf"\nsha256 = "{"ab" * 32}"\n'

    assert "models[1] and models[2] are both a/b:x.gguf" in refusal(config_file, one + one)
