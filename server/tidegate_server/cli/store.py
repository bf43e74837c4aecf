"""`tidegate store`: what an operator does with a store itself, while no server uses it."""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tidegate_server.cli import options, output
from tidegate_server.cli.endings import Failure, WrongArgument, run
from tidegate_server.errors import StartupError, TidegateError

if TYPE_CHECKING:
    from tidegate_server.store.connect import Address
    from tidegate_server.store.move import End, Moved
    from tidegate_server.store.move import Progress as Step

app = typer.Typer(help="Look after the store, while no server uses it.")

_WORTH_SAYING_MS = 1_000


@app.callback()
def _group() -> None:
    """Look after the store, while no server uses it."""


@app.command()
def move(
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL", envvar="TIDEGATE_MOVE_FROM", help="The store as it is."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--from-data-dir", help="The files of an embedded store, instead."),
    ] = None,
    destination: Annotated[
        str,
        typer.Option("--to", metavar="URL", envvar="TIDEGATE_MOVE_TO", help="An empty store."),
    ],
    partitions: Annotated[
        int | None,
        typer.Option(
            "--to-partitions",
            min=1,
            max=1024,
            help="Default: 64 for a Cluster, else 1.",
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="What the keys begin with.")] = "tg",
    to_prefix: Annotated[
        str | None, typer.Option(help="What they begin with then. Default: the same.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates that may sign the stores'.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Move everything to another store, or to another number of partitions.

    Stop all servers first. Messages, batches and dead letters come along with
    their ids, tokens, times and what is left of their lives. If it breaks off,
    repeat it: it goes on, and nothing is lost or there twice.
    """
    # Brings the store's library, which other commands need not wait for.
    from tidegate_server import logs
    from tidegate_server.store.move import End
    from tidegate_server.store.move import move as move_all

    if (source is None) == (data_dir is None):
        raise WrongArgument("give either --from or --from-data-dir")
    if data_dir and not data_dir.is_dir():
        raise WrongArgument("--from-data-dir must be a directory that is there")
    logs.configure("error", "console")
    new = End(_address(destination, "--to", ca_file), to_prefix or prefix)

    async def perform(tell: Callable[["Step"], None]) -> "Moved":
        async with _source(source, data_dir, ca_file) as address:
            wanted = partitions or new.address.partitions
            return await move_all(End(address, prefix), new, partitions=wanted, progress=tell)

    with _progress() as tell, _failures():
        moved = run(perform(tell))
    _show(moved, new, as_json=as_json)


@asynccontextmanager
async def _source(
    url: str | None, data_dir: Path | None, ca_file: Path | None
) -> AsyncGenerator["Address"]:
    """The address of the store to move; an embedded one runs as long as that is wanted."""
    if data_dir is None:
        yield _address(url or "", "--from", ca_file)
        return
    from tidegate_server.store.connect import Address
    from tidegate_server.store.embedded import EmbeddedStore

    embedded = EmbeddedStore(data_dir)
    await embedded.start()
    try:
        yield Address(embedded.url, embedded=True)
    finally:
        await embedded.stop()


def _address(url: str, option: str, ca_file: Path | None) -> "Address":
    """The address of a URL, by the rules of TIDEGATE_STORE_URL."""
    from tidegate_server.config.addresses import STORE_URL, split_credentials
    from tidegate_server.store.connect import Address

    bare, username, password = split_credentials(url)
    try:
        checked: str | None = STORE_URL.func(bare)  # pyright: ignore[reportCallIssue] - takes one
    except ValueError as rule:
        raise WrongArgument(f"{option} must be {rule}") from None
    if checked is None:
        raise WrongArgument(f"{option} must be the URL of a store")
    return Address(
        checked,
        username=username or None,
        password=password or None,
        ca_file=str(ca_file) if ca_file else None,
    )


@contextmanager
def _failures() -> Generator[None]:
    """What the store refuses is said in its own sentence."""
    try:
        yield
    except StartupError:
        raise
    except TidegateError as error:
        raise Failure(f"{error}; what is done stays done, and repeating the move goes on") from None


@contextmanager
def _progress() -> Generator[Callable[["Step"], None]]:
    """A bar on a terminal, nothing when piped."""
    console = output.console(stderr=True)
    columns = (
        BarColumn(30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} keys", style="dim"),
        TimeElapsedColumn(),
    )
    if not console.is_terminal:
        yield lambda _: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1)
        yield lambda step: bar.update(task, completed=step.done, total=step.total)


def _show(moved: "Moved", where: "End", *, as_json: bool) -> None:
    if as_json:
        output.print_json(moved)
        return
    console, stats = output.console(), moved.stats
    console.print(f"✓ moved to {where}, {output.count(moved.partitions, 'partition')}")
    table = output.table("what is there now", "", right=[""])
    table.add_row("open buffers", f"{stats.open_buffers:,}")
    table.add_row("messages in them", f"{stats.buffered_messages:,}")
    table.add_row("batches being delivered", f"{stats.delivering_batches:,}")
    table.add_row("batches waiting for a retry", f"{stats.retrying_batches:,}")
    table.add_row("dead letters", f"{stats.dead_letters:,}")
    console.print("", table, "", sep="\n")
    brought = output.table("what this run brought", "", right=[""])
    brought.add_row("conversations", f"{moved.conversations:,}")
    brought.add_row("batches that had ended", f"{moved.settled_batches:,}")
    console.print(brought)
    if abs(moved.clock_difference_ms) > _WORTH_SAYING_MS:
        late = "later" if moved.clock_difference_ms < 0 else "earlier"
        gap = output.seconds(abs(moved.clock_difference_ms) / 1000)
        console.print(
            f"The two stores' clocks differ by {gap}: what waits is due {late} by that.",
            soft_wrap=True,
        )
