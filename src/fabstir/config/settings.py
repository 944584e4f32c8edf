"""Read the settings: flags win over the environment, it over the file, it over the defaults."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from fabstir.config.environment import (
    CONFIG_FILE_VARIABLE,
    ENVIRONMENT_PREFIX,
    setting_variables,
)
from fabstir.config.homes import NoHome, expanded, user_config_folder
from fabstir.config.mistakes import unknown_setting, wrong_value
from fabstir.config.models import (
    MODELS,
    check_model,
    models_from_text,
    models_from_toml,
    refuse_doubles,
    table_name,
)
from fabstir.config.plain_files import read_plain
from fabstir.config.sections import (
    ChainSettings,
    DatabaseSettings,
    EngineSettings,
    HostSettings,
    HubSettings,
    MetricsSettings,
    ModelSettings,
    NetworkSettings,
    P2PSettings,
    PathSettings,
    RenterSettings,
    S5Settings,
    WalletSettings,
)
from fabstir.config.values import SettingScalar, SettingType, resolve, setting_types
from fabstir.primitives.edited_text import decode_edited
from fabstir.primitives.errors import ConfigError

Origin = Literal["default", "file", "environment", "flag"]

_MAX_FILE_BYTES: Final = 16 << 20
"""Of the settings file: thousands of times what all settings take."""

_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM})

EVERY_INTERFACE = "0.0.0.0"

PUBLIC_PORTALS = "public"
"""Stands in s5.portals for the known public ones."""

_PORTAL = re.compile(rf"https?://[^\s/]\S*|{PUBLIC_PORTALS}")
_PRICE = re.compile(r"https?://[^\s/=]+=[0-9]+(\.[0-9]+)?")
_PEER = re.compile(r"wss?://[^\s/]\S*")


@dataclass(frozen=True, slots=True)
class SettingValue:
    """One line of `fabstir config show`; `value` is what JSON can hold."""

    name: str
    value: str | int | float | bool | list[str] | None
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, checked and complete; every path is absolute."""

    chain: ChainSettings = field(default_factory=ChainSettings)
    wallet: WalletSettings = field(default_factory=WalletSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    host: HostSettings = field(default_factory=HostSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    models: tuple[ModelSettings, ...] = ()
    hub: HubSettings = field(default_factory=HubSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    p2p: P2PSettings = field(default_factory=P2PSettings)
    s5: S5Settings = field(default_factory=S5Settings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    renter: RenterSettings = field(default_factory=RenterSettings)
    file: Path
    """The file that was read, or would be if it were there."""
    origins: Mapping[str, Origin]
    """Where each value that is no default came from, by "section.name"."""

    def served_models(self) -> tuple[tuple[str, ModelSettings], ...]:
        """Every model to serve, with what it is called in the settings.

        `[model]` is one of them if any of it is set; it is the demo model if there is no other.
        """
        is_set = any(key.startswith("model.") for key in self.origins)
        single = (("model", self.model),) if is_set or not self.models else ()
        return (*single, *((table_name(index), each) for index, each in enumerate(self.models)))

    def describe(self) -> tuple[SettingValue, ...]:
        """Every setting with its value and origin, in the order of their definition; of the tables
        of `[[models]]` what differs from the defaults.
        """
        single = (
            SettingValue(name, _plain(self._value(name)), self.origins.get(name, "default"))
            for name in SETTING_TYPES
        )
        return (*single, *self._describe_models())

    def _describe_models(self) -> Iterator[SettingValue]:
        origin = self.origins.get(MODELS, "default")
        for index, model in enumerate(self.models):
            for each in dataclasses.fields(model):
                value = getattr(model, each.name)
                if value != getattr(_DEFAULT_MODEL, each.name):
                    yield SettingValue(f"{table_name(index)}.{each.name}", _plain(value), origin)

    def _value(self, key: str) -> SettingScalar:
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)


_DEFAULT_MODEL = ModelSettings()

_SECTIONS: dict[str, Any] = {
    name: hint
    for name, hint in typing.get_type_hints(Settings).items()
    if name not in (MODELS, "file", "origins")
}

SETTING_TYPES: dict[str, SettingType] = {
    f"{section}.{name}": setting_type
    for section, cls in _SECTIONS.items()
    for name, setting_type in setting_types(cls).items()
}
"""Every setting by its "section.name"."""

_KEYS = (*SETTING_TYPES, MODELS)


def default_config_file() -> Path:
    """`fabstir/config.toml` in the user's configuration folder. Raises NoHome."""
    folder = user_config_folder()
    if folder is None:
        raise NoHome("the settings file")
    return folder / "config.toml"


def locate_config_file(file: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file that `load_settings` would read; it may be absent."""
    named = file or (Path(text) if (text := environ.get(CONFIG_FILE_VARIABLE)) else None)
    return expanded(named).absolute() if named else default_config_file()


@dataclass(slots=True)
class _Layer:
    """What one place sets. A list of models replaces that of the layer below."""

    values: dict[str, SettingScalar] = field(default_factory=dict[str, SettingScalar])
    models: tuple[ModelSettings, ...] | None = None


def load_settings(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] | None = None,
) -> Settings:
    """Read and check all settings.

    Args:
        file: the TOML file, which must exist; None: FABSTIR_CONFIG names it, else it is the
            default one, which may be absent.
        environ: the environment; `FABSTIR_<SECTION>_<NAME>` sets one setting.
        overrides: the flags, "section.name" to text.

    Returns:
        Settings whose paths are absolute: those of the file (and the defaults) seen from the
        file's folder, those of flags and variables from the working directory.

    Raises:
        ConfigError: names the file, variable or flag, the setting, and what is expected.
    """
    path = locate_config_file(file, environ)
    if (file or environ.get(CONFIG_FILE_VARIABLE)) and not os.path.lexists(path):
        raise ConfigError(
            f"there is no configuration file {path}: create it with "
            f"`fabstir --config {path} config set SECTION.NAME=VALUE`, or correct --config "
            f"or {CONFIG_FILE_VARIABLE}"
        )
    layers: dict[Origin, _Layer] = {
        "file": _from_file(path),
        "environment": _from_environment(environ),
        "flag": _from_overrides(overrides or {}),
    }
    values: dict[str, SettingScalar] = {}
    origins: dict[str, Origin] = {}
    models: tuple[ModelSettings, ...] = ()
    for origin, layer in layers.items():
        values |= layer.values
        origins |= dict.fromkeys(layer.values, origin)
        if layer.models is not None:
            models, origins[MODELS] = layer.models, origin
    return _checked(_build(path, values, models, origins))


def parse_setting(key: str, text: str, *, folder: Path, source: str) -> SettingScalar:
    """Parse the text of one setting; `source` says where it stood.

    Raises:
        ConfigError: no such setting, or not a value it can have.
    """
    try:
        return _type_of(key, source).from_text(text, folder)
    except ValueError as exc:
        raise wrong_value(key, source, text, SETTING_TYPES[key]) from exc


def _from_file(file: Path) -> _Layer:
    layer = _Layer()
    for section, table in read_document(file).items():
        if section == MODELS:
            layer.models = models_from_toml(table, folder=file.parent, source=str(file))
            continue
        if section not in _SECTIONS or not isinstance(table, dict):
            raise unknown_setting(section, str(file), [*_SECTIONS, MODELS])
        for name, raw in typing.cast("dict[str, object]", table).items():
            key = f"{section}.{name}"
            try:
                layer.values[key] = _type_of(key, str(file)).from_toml(raw, file.parent)
            except ValueError as exc:
                raise wrong_value(key, str(file), raw, SETTING_TYPES[key]) from exc
    return layer


def read_edited(file: Path) -> tuple[str, str]:
    """The file's text and the codec that it is written in; an absent file is an empty one.

    Raises:
        ConfigError: it cannot be read.
        ValueError: it is not text.
    """
    try:
        return decode_edited(read_plain(file, _MAX_FILE_BYTES))
    except FileNotFoundError:
        return "", "utf-8"
    except OSError as exc:
        advice = "check its permissions" if exc.errno in _NOT_ALLOWED else "name another file"
        raise ConfigError(f"cannot read {file}: {exc.strerror}; {advice}") from exc


def read_document(file: Path) -> dict[str, object]:
    """The file as TOML; an absent file is an empty one.

    Raises:
        ConfigError: it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(read_edited(file)[0])
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{file} is not TOML in UTF-8: {exc}; correct that line") from exc


def _from_environment(environ: Mapping[str, str]) -> _Layer:
    keys = {ENVIRONMENT_PREFIX + key.replace(".", "_").upper(): key for key in _KEYS}
    layer = _Layer()
    for variable, text in setting_variables(environ, keys).items():
        if variable not in keys:
            raise unknown_setting(variable, "the environment", list(keys))
        _set_from_text(layer, keys[variable], text, source=variable)
    return layer


def _from_overrides(overrides: Mapping[str, str]) -> _Layer:
    layer = _Layer()
    for key, text in overrides.items():
        _set_from_text(layer, key, text, source="the command line")
    return layer


def _set_from_text(layer: _Layer, key: str, text: str, *, source: str) -> None:
    folder = Path.cwd()
    if key == MODELS:
        layer.models = models_from_text(text, folder=folder, source=source)
    else:
        layer.values[key] = parse_setting(key, text, folder=folder, source=source)


def _type_of(key: str, source: str) -> SettingType:
    if key == MODELS:
        raise ConfigError(
            f"{source}: models is a list of tables: write [[models]] into the file by hand"
        )
    if key not in SETTING_TYPES:
        raise unknown_setting(key, source, list(_KEYS))
    return SETTING_TYPES[key]


def _build(
    file: Path,
    values: dict[str, SettingScalar],
    models: tuple[ModelSettings, ...],
    origins: dict[str, Origin],
) -> Settings:
    sections: dict[str, Any] = {}
    for section, cls in _SECTIONS.items():
        prefix = section + "."
        given = {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}
        chosen = cls(**given)
        paths = {
            f.name: resolve(getattr(chosen, f.name), file.parent) for f in dataclasses.fields(cls)
        }
        sections[section] = cls(**paths)
    return Settings(file=file, origins=origins, models=models, **sections)


def _checked(settings: Settings) -> Settings:
    """Refuse what only two settings together make wrong; apply `host.public` and `s5.public`.

    Raises:
        ConfigError: names the settings and what would be right.
    """
    check_model(settings.model, "model")
    for index, model in enumerate(settings.models):
        check_model(model, table_name(index))
    refuse_doubles(settings.served_models())
    for key, networks in (
        ("host.trusted_proxies", settings.host.trusted_proxies),
        ("s5.trusted_proxies", settings.s5.trusted_proxies),
    ):
        _check_networks(key, networks)
    if settings.host.public:
        settings = _made_public(settings)
    for key, listen in (("host.listen", settings.host.listen), ("p2p.listen", settings.p2p.listen)):
        if not _is_loopback(key, listen) and not settings.host.public:
            raise ConfigError(
                f"{key} is {listen}, which strangers can reach: set host.public = true if that "
                "is what you want, or listen on 127.0.0.1"
            )
    if settings.host.public and not settings.host.api_url:
        raise ConfigError(
            "host.public is true, but host.api_url is empty: set it to the URL at which renters "
            "reach this host, such as https://host.example:8080"
        )
    return _checked_s5(settings)


def _checked_s5(settings: Settings) -> Settings:
    s5 = settings.s5
    if s5.public and "s5.listen" not in settings.origins:
        s5 = dataclasses.replace(s5, listen=EVERY_INTERFACE)
    if not _is_loopback("s5.listen", s5.listen) and not s5.public:
        raise ConfigError(
            f"s5.listen is {s5.listen}, which strangers can reach: set s5.public = true if that "
            "is what you want, or listen on 127.0.0.1"
        )
    if s5.public and not s5.url:
        raise ConfigError(
            "s5.public is true, but s5.url is empty: set it to the URL at which others reach this "
            "node, such as https://s5.example"
        )
    for key, urls, form, example in (
        ("s5.portals", s5.portals, _PORTAL, "https://portal.example"),
        ("s5.peers", s5.peers, _PEER, "wss://node.example/s5/p2p"),
        ("s5.portal_prices", s5.portal_prices, _PRICE, "https://portal.example=5.99"),
    ):
        wrong = [url for url in urls if not form.fullmatch(url)]
        if wrong:
            raise ConfigError(f"{key} has {wrong[0]!r}, but {example} or the like is expected")
    num_elsewhere = len(set(s5.portals)) + len(set(s5.peers))
    if s5.replicas > 1 + num_elsewhere and PUBLIC_PORTALS not in s5.portals:
        raise ConfigError(
            f"s5.replicas is {s5.replicas}, this node's own copy included, but s5.portals and "
            f"s5.peers name {num_elsewhere} other places: name more of them, or lower s5.replicas"
        )
    return dataclasses.replace(settings, s5=s5)


def _made_public(settings: Settings) -> Settings:
    """`host.public` opens both listeners whose own address nobody has set."""
    host, p2p = settings.host, settings.p2p
    if "host.listen" not in settings.origins:
        host = dataclasses.replace(host, listen=EVERY_INTERFACE)
    if "p2p.listen" not in settings.origins:
        p2p = dataclasses.replace(p2p, listen=EVERY_INTERFACE)
    return dataclasses.replace(settings, host=host, p2p=p2p)


def _is_loopback(key: str, listen: str) -> bool:
    try:
        return ipaddress.ip_address(listen).is_loopback
    except ValueError as exc:
        raise ConfigError(
            f"{key} is {listen!r}, but an IP address such as 127.0.0.1 is expected"
        ) from exc


def _check_networks(key: str, networks: tuple[str, ...]) -> None:
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as exc:
            raise ConfigError(
                f"{key} has {network!r}, but an IP address or a network such as 10.0.0.0/8 is "
                "expected"
            ) from exc


def _plain(value: SettingScalar) -> str | int | float | bool | list[str] | None:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
