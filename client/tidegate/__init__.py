"""Tidegate's client: add messages to a conversation's buffer, receive them as batches.

`Client` is for asyncio; `tidegate.blocking.Client` is the same without. Needs grpcio and protobuf
only. Logs to the logger "tidegate" and configures nothing.
"""

from importlib import metadata

from tidegate.batch import Batch
from tidegate.client import Client
from tidegate.errors import (
    AlreadySealed,
    DeadlineExceeded,
    InvalidArgument,
    LeaseLost,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServerError,
    Superseded,
    TidegateError,
    Unauthenticated,
    Unavailable,
)
from tidegate.models import (
    Added,
    AddOutcome,
    Attempt,
    BatchDetails,
    BatchInfo,
    BatchState,
    BufferInfo,
    BufferState,
    ConversationInfo,
    DeliveryChannel,
    Event,
    EventKind,
    Flushed,
    FlushReason,
    Held,
    Message,
    NackAction,
    NewMessage,
    ReceivedMessage,
    ServerInfo,
    Stats,
    Status,
    Tracked,
    WindowMode,
    WindowPolicy,
)
from tidegate.subscription import Subscription

try:
    __version__ = metadata.version("tidegate")
except metadata.PackageNotFoundError:  # a copy of the source, not installed
    __version__ = "0+unknown"

__all__ = [
    "AddOutcome",
    "Added",
    "AlreadySealed",
    "Attempt",
    "Batch",
    "BatchDetails",
    "BatchInfo",
    "BatchState",
    "BufferInfo",
    "BufferState",
    "Client",
    "ConversationInfo",
    "DeadlineExceeded",
    "DeliveryChannel",
    "Event",
    "EventKind",
    "FlushReason",
    "Flushed",
    "Held",
    "InvalidArgument",
    "LeaseLost",
    "Message",
    "NackAction",
    "NewMessage",
    "NotFound",
    "PermissionDenied",
    "ReceivedMessage",
    "ResourceExhausted",
    "ServerError",
    "ServerInfo",
    "Stats",
    "Status",
    "Subscription",
    "Superseded",
    "TidegateError",
    "Tracked",
    "Unauthenticated",
    "Unavailable",
    "WindowMode",
    "WindowPolicy",
    "__version__",
]
