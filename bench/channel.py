"""How load generators reach a server: with the retries that the contract publishes."""

from pathlib import Path

import grpc.aio

_SERVICE_CONFIG = Path(__file__).parent.parent / "proto" / "tidegate" / "v1" / "service_config.json"


def channel(target: str) -> grpc.aio.Channel:
    """A channel whose calls are repeated as those of every client are."""
    options = [("grpc.service_config", _SERVICE_CONFIG.read_text())]
    return grpc.aio.insecure_channel(target, options)
