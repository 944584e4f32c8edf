"""What a wrong name or value in the settings is answered with."""

from __future__ import annotations

import difflib
import re
from typing import Final

from fabstir.config.values import SettingType
from fabstir.primitives.errors import ConfigError

_SECRET_WORDS = ("private_key", "secret", "mnemonic", "seed", "password")

_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/]*(?=@)|([?&]password=)[^\s&'\"]*")
"""Of a user in a URL, and what stands before it."""
_MAX_SHOWN_CHARS: Final = 200
"""Of a value that is refused."""


def unknown_setting(name: str, source: str, known: list[str]) -> ConfigError:
    """There is no setting `name`; `source` says where it stood."""
    if any(word in name.lower() for word in _SECRET_WORDS):
        return ConfigError(
            f"{source}: {name} looks like a secret, and secrets never go into the settings: "
            "remove it and put the key into the keystore with `fabstir keys import`"
        )
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean {nearest[0]}?" if nearest else "known are " + ", ".join(known)
    return ConfigError(f"{source}: there is no setting {name}; {advice}")


def wrong_value(key: str, source: str, value: object, setting_type: SettingType) -> ConfigError:
    """The setting `key` cannot have this value."""
    shown = _PASSWORD.sub(r"\1\2...", repr(value))
    if len(shown) > _MAX_SHOWN_CHARS:
        shown = f"{shown[:_MAX_SHOWN_CHARS]}..."
    return ConfigError(f"{source}: {key} is {shown}, but {setting_type.expected} is expected")
