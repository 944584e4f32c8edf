"""`fabstir keys new|import|show`: the wallet and the session-encryption key.

The third key, the libp2p identity, is made by the node when it first starts.
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from fabstir.chain.encryption_key import load_or_create_encryption_key
from fabstir.chain.keystore import (
    Signer,
    create_keystore,
    import_keystore,
    load_keystore,
    read_secret_file,
    write_secret_file,
)
from fabstir.cli.context import invocation, run_async
from fabstir.cli.lines import read_hidden_line
from fabstir.cli.output import ask_hidden, show, table
from fabstir.config import Settings
from fabstir.crypto import NATIVE, checksum_address
from fabstir.primitives.errors import KeystoreError

keys = typer.Typer(help="Make, import or show this machine's keys.", no_args_is_help=True)
app = typer.Typer()
app.add_typer(keys, name="keys")


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What may be shown about the keys."""

    address: str
    encryption_public_key: str
    """Compressed, 33 bytes of hex: what a host publishes as metadata.publicKey."""
    keystore: Path
    password_file: Path
    encryption_key: Path


@keys.command("new")
def new_keys(ctx: typer.Context) -> None:
    """Make a new wallet, and the encryption key if there is none.

    Asks for a password; without a terminal, or if the answer is empty, makes a random one.
    """
    settings = invocation(ctx).settings()
    password = _password_of_new_keystore(settings)
    signer = run_async(partial(create_keystore, settings.wallet.keystore, password))
    _show(ctx, settings, signer)


@keys.command("import")
def import_key(ctx: typer.Context) -> None:
    """Store an existing wallet's private key, read from a hidden prompt or from standard input."""
    settings = invocation(ctx).settings()
    _refuse_existing(settings.wallet.keystore)
    secret_key = _parse_secret_key(read_hidden_line("Private key (hex)"))
    password = _password_of_new_keystore(settings)
    signer = run_async(partial(import_keystore, settings.wallet.keystore, secret_key, password))
    _show(ctx, settings, signer)


@keys.command("show")
def show_keys(ctx: typer.Context) -> None:
    """Show address, public key and files, after opening each; never a secret."""
    settings = invocation(ctx).settings()
    password = read_secret_file(settings.wallet.password_file)
    signer = run_async(partial(load_keystore, settings.wallet.keystore, password))
    _show(ctx, settings, signer)


def _password_of_new_keystore(settings: Settings) -> str:
    """The password file's text; the file is written first if it is not there.

    A keystore whose password was never written down would be lost, so the password comes first.
    """
    _refuse_existing(settings.wallet.keystore)
    file = settings.wallet.password_file
    if not file.exists():
        asked = _ask_password() if sys.stdin.isatty() else ""
        write_secret_file(file, asked or secrets.token_urlsafe(24))
    return read_secret_file(file)


def _ask_password() -> str:
    return ask_hidden(
        "Password (empty: a random one)",
        default="",
        confirmation_prompt=True,
        show_default=False,
    )


def _refuse_existing(keystore: Path) -> None:
    if keystore.exists():
        raise KeystoreError(
            f"{keystore} holds a key already and is not overwritten: move it away, or set "
            "wallet.keystore to another file"
        )


def _parse_secret_key(text: str) -> bytes:
    """Before a password is asked for and its file written: what is no key leaves nothing behind."""
    try:
        secret_key = bytes.fromhex(text.strip().removeprefix("0x"))
        Signer(secret_key)
    except ValueError:
        # Without the cause: its text can repeat part of the key.
        raise KeystoreError("that is not a private key: 64 hex digits are needed") from None
    return secret_key


def _show(ctx: typer.Context, settings: Settings, signer: Signer) -> None:
    encryption_key = load_or_create_encryption_key(settings.host.encryption_key)
    facts = KeyFacts(
        address=checksum_address(signer.address),
        encryption_public_key=NATIVE.public_key(encryption_key).hex(),
        keystore=settings.wallet.keystore,
        password_file=settings.wallet.password_file,
        encryption_key=settings.host.encryption_key,
    )
    rows = [
        ("address", facts.address),
        ("encryption public key", facts.encryption_public_key),
        ("keystore", str(facts.keystore)),
        ("password file", str(facts.password_file)),
        ("encryption key", str(facts.encryption_key)),
    ]
    show(ctx, facts, lambda: table("key", "", rows=rows))
