"""The least that a server on grpc.aio can do: send the bytes back. The measure of the rest."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import uvloop

METHOD = "/bench.Echo/Echo"


async def _echo(request: bytes, context: object) -> bytes:
    return request


async def _serve() -> None:
    server: Any = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
