"""`fabstir s5`: the storage node, its files and its blobs.

Every command works on a node that runs and on the folder of one that does not (`s5_access`).
"""

from __future__ import annotations

import typer

from fabstir.cli import s5_files, s5_identity, s5_node, s5_store

s5 = typer.Typer(help="Store files and blobs; run a storage node.", no_args_is_help=True)
for part in (s5_node, s5_files, s5_store, s5_identity):
    s5.add_typer(part.app)

app = typer.Typer()
app.add_typer(s5, name="s5")
