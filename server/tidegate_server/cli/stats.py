"""`tidegate stats`."""

from tidegate_server.cli import options, output


def stats(
    *,
    instance: options.OnlyInstance = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Show what a server is busy with."""
    with options.connect(server, token) as gate:
        info, found = gate.server_info(), gate.stats(instance)
    if as_json:
        output.print_json({**output.plain(found), "server": info})
        return
    console = output.console()
    console.print(
        output.cell(f"Tidegate {info.version} at {server}", "bold"),
        output.cell(f" · {info.store} · durability {info.durability}", "dim"),
        sep="",
    )
    table = output.table("now", "", right=[""])
    table.add_row("open buffers", f"{found.open_buffers:,}")
    table.add_row("messages in them", f"{found.buffered_messages:,}")
    table.add_row("batches being delivered", f"{found.delivering_batches:,}")
    table.add_row("batches waiting for a retry", f"{found.retrying_batches:,}")
    table.add_row("dead letters", output.cell(str(found.dead_letters), _alarm(found.dead_letters)))
    table.add_row("subscribers", f"{found.subscribers:,}")
    table.add_row("longest overdue", output.seconds(found.oldest_due_age))
    console.print("", table, sep="\n")
    counters = output.table("since its start", "", right=[""])
    for name, value in sorted(found.counters.items()):
        counters.add_row(name, f"{value:,.10g}")
    if found.counters:
        console.print("", counters, sep="\n")


def _alarm(number: int) -> str:
    return "red" if number else ""
