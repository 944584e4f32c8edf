"""Where a PostgreSQL database is, from its URL: which server, which schema, encrypted or not."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from fabstir.primitives.errors import ConfigError

_OPTIONS: Final = frozenset({"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey"})
"""Of libpq's, those that say where the server is and how it is trusted."""

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_FORM = "postgresql://user@host:5432/database"


@dataclass(frozen=True, slots=True)
class Target:
    """One schema of one database.

    Attributes:
        dsn: what the driver connects to; has no password.
        schema: the PostgreSQL schema that the tables are in.
        place: for people.
    """

    dsn: str
    schema: str
    place: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ConfigError: names what is wrong, and repeats nothing that may be a password."""
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            has_password = parts.password is not None
        except ValueError as exc:
            raise ConfigError(f"the database's URL cannot be read: write {_FORM}") from exc
        if has_password:
            raise ConfigError(
                "the database's URL has a password in it, which others would see: leave it out, "
                "and put it into a file of mode 0600 that database.password_file names"
            )
        schema = options.pop("schema", "fabstir")
        if not _SCHEMA.fullmatch(schema):
            raise ConfigError(
                "the schema in the database's URL has to be a name of lower-case letters, digits "
                "and _, and of 63 characters at most"
            )
        unknown = sorted(options.keys() - _OPTIONS)
        if parts.scheme not in {"postgresql", "postgres"} or unknown:
            what = f"the option {unknown[0]}" if unknown else f"the scheme {parts.scheme!r}"
            raise ConfigError(
                f"the database's URL has {what}, which is not known: write {_FORM}, with "
                f"{', '.join(sorted(_OPTIONS))} as options if they are needed"
            )
        host = options.get("host") or parts.netloc.rpartition("@")[2]
        if "sslmode" not in options and not all(_is_here(each) for each in host.split(",")):
            options["sslmode"] = "require"
        query = f"?{urlencode(options)}" if options else ""
        shown = f"{parts.netloc}{parts.path}"
        return cls(
            dsn=f"postgresql://{shown}{query}",
            schema=schema,
            place=f"postgresql://{shown} (schema {schema})",
        )


def _is_here(host: str) -> bool:
    """Whether a host, perhaps with a port, is this machine: nobody listens on the way."""
    name = host if host.startswith("/") else urlsplit(f"//{host}").hostname
    if name is None or name == "localhost" or name.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
