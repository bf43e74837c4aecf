"""`tidegate serve`."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with settings.", envvar="TIDEGATE_CONFIG")
    ] = None,
) -> None:
    """Serve until told to stop by SIGTERM or Ctrl-C.

    Settings come from TIDEGATE_* variables and the file; `tidegate config`
    lists them. Exits with 2 for a wrong setting, with 1 if it cannot start.
    """
    # The server's parts take time to import, which other commands need not wait for.
    from tidegate_server import app, logs
    from tidegate_server.config import Settings, load_settings

    def greet(settings: Settings) -> None:
        where = ", ".join(map(str, settings.listen))
        store = settings.store_url or f"an embedded one in {settings.data_dir}"
        print(f"Tidegate starts on {where}; its store is {store}. Ctrl-C ends it.", file=sys.stderr)

    settings = load_settings(config_file=config)
    logs.configure(settings.log_level, settings.log_format)
    if sys.stderr.isatty():
        greet(settings)
    app.run(settings)
