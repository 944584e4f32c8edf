"""`fabstir s5 identity show|import`: the 16 bytes from which every key of S5 comes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from fabstir.cli.context import invocation
from fabstir.cli.lines import read_hidden_line
from fabstir.cli.output import show, table, unwrapped
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import encode_multibase
from fabstir.primitives.errors import KeystoreError
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.identities.identity import (
    identity_phrase,
    import_identity,
    load_or_create_identity,
)

app = typer.Typer()
identity = typer.Typer(help="Show or import the S5 identity.", no_args_is_help=True)
app.add_typer(identity, name="identity")

WordList = Annotated[
    Path | None,
    typer.Option("--wordlist", help="S5's own 1,024 words, for the phrases of S5.js."),
]


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """What may be shown about an identity."""

    file: Path
    root_key: str
    """Of the registry entry that points at the root directory: `?pk=` of /s5/registry."""


@identity.command("show")
def show_identity(
    ctx: typer.Context,
    *,
    phrase: Annotated[
        bool,
        typer.Option("--phrase", help="Also the words to write down: whoever has them has all."),
    ] = False,
    wordlist: WordList = None,
) -> None:
    """Show the public keys of this identity, which is made if there is none."""
    settings = invocation(ctx).settings()
    found = load_or_create_identity(settings.s5.identity, NATIVE)
    words = identity_phrase(found, word_list=wordlist) if phrase else None
    _show(ctx, settings, found, words)


@identity.command("import")
def import_(ctx: typer.Context, *, wordlist: WordList = None) -> None:
    """Bring in an identity from a hidden prompt or standard input: words, or the entropy in hex.

    Twelve words of BIP-39, or with --wordlist the fifteen of S5. Nothing is overwritten.
    """
    settings = invocation(ctx).settings()
    file = settings.s5.identity
    if file.exists():
        raise KeystoreError(
            f"{file} exists already and is not overwritten: move it away, or name another file "
            "in s5.identity"
        )
    text = read_hidden_line("Phrase, or 32 hex digits of entropy")
    _show(ctx, settings, import_identity(file, text, NATIVE, word_list=wordlist), None)


def _show(ctx: typer.Context, settings: Settings, found: Identity, words: str | None) -> None:
    facts = IdentityFacts(
        file=settings.s5.identity,
        root_key=_key_text(found.file_system_root().public_key, "u").removeprefix("u"),
    )
    rows: list[tuple[RenderableType, RenderableType]] = [
        ("file", str(facts.file)),
        ("root directory's key", facts.root_key),
        *([] if words is None else [("phrase", unwrapped(words))]),
    ]
    data = dataclasses.asdict(facts)
    if words is not None:
        data["phrase"] = words
    show(ctx, data, lambda: table("S5 identity", "", rows=rows))


def _key_text(public_key: bytes, base: str) -> str:
    return encode_multibase(encode_multikey(public_key), base)
