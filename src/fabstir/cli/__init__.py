"""The command line: arguments in, one call into node or sdk, rich or JSON out."""

from fabstir.cli.app import main

__all__ = ["main"]
