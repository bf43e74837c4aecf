"""The command line."""

from tidegate_server.cli.main import main

__all__ = ["main"]
