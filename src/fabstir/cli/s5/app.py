"""`fabstir s5`: the storage node, its files and its blobs.

Every command works on a node that runs and on the folder of one that does not (`access`).
"""

from __future__ import annotations

import typer

from fabstir.cli.s5 import files, identity, node, store

s5 = typer.Typer(help="Store files and blobs; run a storage node.", no_args_is_help=True)
for part in (node, files, store, identity):
    s5.add_typer(part.app)

app = typer.Typer()
app.add_typer(s5, name="s5")
