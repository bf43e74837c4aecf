"""The live tail, for both clients. It mends itself while the server is away."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, cast

import grpc
import grpc.aio

from tidegate import _decode, errors, models
from tidegate._channel import AsyncConnection, Connection
from tidegate._delivery import Backoff, log
from tidegate.errors import TidegateError, Unavailable
from tidegate.v1 import admin_service_pb2 as admin_pb2


async def watch(
    connection: AsyncConnection, request: admin_pb2.WatchEventsRequest
) -> AsyncGenerator[models.Event]:
    """Events of one stream after the other."""
    backoff = Backoff()
    while True:
        call = connection.watch(request)
        try:
            while (response := await _read(connection, call)) is not None:
                backoff.succeeded()
                yield _decode.event(response)
            pause_s = backoff.failed_s()
        except Unavailable as error:
            pause_s = _pause_s(backoff, error)
        finally:
            call.cancel()
        await asyncio.sleep(pause_s)


async def _read(
    connection: AsyncConnection,
    call: "grpc.aio.UnaryStreamCall[Any, admin_pb2.WatchEventsResponse]",
) -> admin_pb2.WatchEventsResponse | None:
    try:
        response = await call.read()
    except grpc.RpcError as error:
        raise connection.error(error) from None
    except asyncio.CancelledError:
        if connection.ended_the_call():
            raise errors.closed() from None
        raise
    if response is grpc.aio.EOF:
        return None
    return cast("admin_pb2.WatchEventsResponse", response)


def watch_blocking(
    connection: Connection, request: admin_pb2.WatchEventsRequest
) -> Generator[models.Event]:
    """Events of one stream after the other."""
    backoff = Backoff()
    while True:
        stream = connection.watch(request)
        try:
            for response in stream:
                backoff.succeeded()
                yield _decode.event(response)
            pause_s = backoff.failed_s()
        except grpc.RpcError as rpc_error:
            pause_s = _pause_or_raise_s(backoff, connection.error(rpc_error))
        finally:
            stream.cancel()
        time.sleep(pause_s)


def _pause_or_raise_s(backoff: Backoff, error: TidegateError) -> float:
    if isinstance(error, Unavailable):
        return _pause_s(backoff, error)
    raise error from None


def _pause_s(backoff: Backoff, error: Unavailable) -> float:
    log.warning("the live tail broke; watching again: %s", error)
    return backoff.failed_s(error.retry_after)
