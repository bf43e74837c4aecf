"""Who knocks at a secured server, and how any of its calls is made."""

from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from tests.support.secured import Papers, Token
from tidegate.v1 import admin_service_pb2, buffer_service_pb2, delivery_service_pb2

FILES = (buffer_service_pb2, delivery_service_pb2, admin_service_pb2)
METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every RPC of the contract, by its name."""

ROLES = {"BufferService": "producer", "DeliveryService": "subscriber", "AdminService": "admin"}


def role_of(method: MethodDescriptor) -> str:
    return ROLES[method.containing_service.name]


class _Tokens:
    """The tokens that a secured server knows."""

    everything = Token("token-of-everything")
    mine = Token("token-of-mine", instances=("mine", "also-mine"))
    producer = Token("token-of-producer", roles=("producer",), instances=("mine",))
    subscriber = Token("token-of-subscriber", roles=("subscriber",), instances=("mine",))
    admin = Token("token-of-admin", roles=("admin",), instances=("mine",))
    global_admin = Token("token-of-global-admin", roles=("admin",))

    @property
    def tokens(self) -> list[Token]:
        return [value for value in vars(type(self)).values() if isinstance(value, Token)]

    def without(self, role: str) -> list[Token]:
        return [token for token in self.tokens if role not in token.roles]


ANNA = _Tokens()


@dataclass(frozen=True)
class Answer:
    """How a call ended, with its first response if there was one."""

    code: grpc.StatusCode
    reason: str
    text: str
    response: bytes | None


class Guests:
    """Channels with a certificate that the server trusts, with one that it does not, with none."""

    def __init__(self, target: str, papers: Papers):
        self.known = grpc.secure_channel(target, papers.credentials())
        self.stranger = grpc.secure_channel(target, papers.credentials("stranger"))
        self.nobody = grpc.secure_channel(target, papers.credentials(None))
        self.plain = grpc.insecure_channel(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in (self.known, self.stranger, self.nobody, self.plain):
            channel.close()

    def call(
        self,
        name: str,
        request: Message | None = None,
        token: Token | None = None,
        channel: grpc.Channel | None = None,
    ) -> Answer:
        """Make a call, whatever kind it is of, and wait for its first response or its failure."""
        method = METHODS[name]
        path = f"/{method.containing_service.full_name}/{name}"
        raw: Any = (channel or self.known).stream_stream(path)
        body = request.SerializeToString() if request else b""
        call = raw(iter([body]), metadata=token.metadata if token else (), timeout=10)
        return _answer(call)


def _answer(call: Any) -> Answer:
    try:
        response = next(call, None)
    except grpc.RpcError as error:
        failed: Any = error
        return Answer(failed.code(), _reason(failed.trailing_metadata()), failed.details(), None)
    call.cancel()
    return Answer(grpc.StatusCode.OK, "", "", response)


def _reason(trailer: Any) -> str:
    raw = dict(trailer or ()).get("grpc-status-details-bin")
    info = error_details_pb2.ErrorInfo()
    found = [d for d in Status.FromString(raw).details if d.Unpack(info)] if raw else []
    assert not found or info.domain == "tidegate"
    return info.reason if found else ""
