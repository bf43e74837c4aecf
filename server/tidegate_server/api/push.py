"""A batch as it is pushed by HTTP: the contract's `Batch` in its JSON mapping."""

from google.protobuf.json_format import MessageToJson

from tidegate.v1 import types_pb2 as pb
from tidegate_server.api import convert
from tidegate_server.core.model import Batch
from tidegate_server.engine.pusher import Unreadable


def batch_json(batch: Batch, max_attempts: int) -> bytes:
    """The body of a push, in UTF-8; `max_attempts` is the server's.

    Raises:
        Unreadable: One of its messages cannot be read.
    """
    wire = pb.Batch()
    try:
        convert.fill_batch(wire, batch, max_attempts)
    except convert.CorruptBody as corrupt:
        raise Unreadable(str(corrupt)) from None
    return MessageToJson(wire, indent=None, ensure_ascii=False).encode()
