"""`tidegate serve`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tidegate_server.config import ConfigError, load_settings
from tidegate_server.errors import StartupError


def serve(
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with settings.", envvar="TIDEGATE_CONFIG")
    ] = None,
) -> None:
    """Serve until told to stop by SIGTERM or Ctrl-C.

    Settings come from TIDEGATE_* variables and the file; `tidegate config show` lists them.
    Exits with 2 for a wrong setting, with 1 if it cannot start.
    """
    # The server's parts take time to import, which other commands need not wait for.
    from tidegate_server import app, logs

    try:
        settings = load_settings(config_file=config)
        logs.configure(settings.log_level, settings.log_format)
        app.run(settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except StartupError as error:
        print(f"tidegate: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
