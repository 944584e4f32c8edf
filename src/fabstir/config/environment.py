"""Settings from environment variables, told apart from what Kubernetes puts there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Final

ENVIRONMENT_PREFIX: Final = "FABSTIR_"
CONFIG_FILE_VARIABLE: Final = "FABSTIR_CONFIG"
"""Names the file itself, so it is no setting."""

_SERVICE_LINK = re.compile(
    r"FABSTIR_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")

_logger = logging.getLogger(__name__)


def setting_variables(environ: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """The variables that are meant as settings, also those of unknown names.

    For every service in its namespace Kubernetes gives every container variables with the
    service's name before them. A service `fabstir` or `fabstir-host` makes some that look like
    settings, and one, FABSTIR_HOST_PORT=tcp://10.96.0.7:8080, that has a setting's very name. They
    are passed over, and named.

    Args:
        known: the variables that are settings.
    """
    names = set(known)
    ours = {
        variable: text
        for variable, text in environ.items()
        if variable.startswith(ENVIRONMENT_PREFIX) and variable != CONFIG_FILE_VARIABLE
    }
    links = sorted(v for v, text in ours.items() if _is_service_link(v, text, v in names))
    if links:
        _logger.warning(
            "variables that Kubernetes made of a service's name are no settings and are passed "
            "over: set enableServiceLinks: false in the pod's spec, or name the service otherwise",
            extra={"variables": ", ".join(links)},
        )
    return {variable: text for variable, text in ours.items() if variable not in links}


def _is_service_link(variable: str, text: str, is_setting: bool) -> bool:
    if is_setting:  # what it has, a person may have meant; a URL of TCP nobody did
        return variable.endswith("_PORT") and _SERVICE_URL.fullmatch(text) is not None
    return _SERVICE_LINK.fullmatch(variable) is not None
