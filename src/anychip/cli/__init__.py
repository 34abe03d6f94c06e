"""The command line: one verb is one library call, shown as one table or as JSON."""

from anychip.cli.app import main

__all__ = ["main"]
