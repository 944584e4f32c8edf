"""Settings: one TOML file, the environment, flags; frozen, typed, read once."""

from fabstir.config.edit import set_settings
from fabstir.config.homes import NoHome, user_cache_folder, user_data_folder
from fabstir.config.sections import (
    ChainSettings,
    DatabaseSettings,
    EngineSettings,
    HostSettings,
    MetricsSettings,
    ModelSettings,
    P2PSettings,
    PathSettings,
    RenterSettings,
    S5Settings,
    WalletSettings,
)
from fabstir.config.settings import (
    Origin,
    Settings,
    SettingValue,
    default_config_file,
    load_settings,
    locate_config_file,
)

__all__ = [
    "ChainSettings",
    "DatabaseSettings",
    "EngineSettings",
    "HostSettings",
    "MetricsSettings",
    "ModelSettings",
    "NoHome",
    "Origin",
    "P2PSettings",
    "PathSettings",
    "RenterSettings",
    "S5Settings",
    "SettingValue",
    "Settings",
    "WalletSettings",
    "default_config_file",
    "load_settings",
    "locate_config_file",
    "set_settings",
    "user_cache_folder",
    "user_data_folder",
]
