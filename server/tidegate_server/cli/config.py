"""`tidegate config`: what the server would run with."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tidegate_server.cli import options, output

app = typer.Typer(cls=options.group("show"), help="Check and show the server's settings.")

File = Annotated[
    Path | None,
    typer.Option("--config", help="A TOML file with settings.", envvar="TIDEGATE_CONFIG"),
]


@app.command()
def check(*, config: File = None) -> None:
    """Say whether the settings are right, or what is wrong with them."""
    sources = Counter(source for _, _, source in _settings(config))
    default = sources.pop("default", 0)
    given = ", ".join(f"{n} from {source}" for source, n in sorted(sources.items()))
    output.console().print(f"✓ the settings are right: {given or 'none given'}, {default} defaults")


@app.command()
def show(*, config: File = None, as_json: options.Json = False) -> None:
    """List every setting, its value and where that comes from. Secrets are hidden."""
    settings = _settings(config)
    if as_json:
        for name, value, source in settings:
            output.print_json({"name": name, "value": value, "source": source})
        return
    table = output.table("name", "value", "source")
    for name, value, source in settings:
        given = source != "default"
        table.add_row(
            output.cell(name, "bold" if given else ""),
            output.cell(value),
            output.cell(source, "cyan" if given else "dim"),
        )
    output.console().print(table)


def _settings(config: Path | None) -> list[tuple[str, str, str]]:
    from tidegate_server.config import load_settings

    return load_settings(config_file=config).describe()
