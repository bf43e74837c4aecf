import json

import pytest

from tidegate.v1 import types_pb2 as pb
from tidegate_server.api import convert
from tidegate_server.api.push import batch_json
from tidegate_server.core.model import (
    Batch,
    BatchInfo,
    BatchState,
    Conversation,
    FlushReason,
    StoredMessage,
)
from tidegate_server.engine.pusher import Unreadable


def batch(*bodies: bytes) -> Batch:
    info = BatchInfo(
        batch_id="b1",
        conversation=Conversation("bot", "ann"),
        state=BatchState.DELIVERING,
        message_count=len(bodies),
        payload_bytes=9,
        first_sequence=7,
        last_sequence=8,
        opened_at_ms=1_000,
        due_at_ms=9_000,
        sealed_at_ms=9_001,
        flush_reason=FlushReason.DELAY,
        attempt=2,
        last_error_reason="HTTP_503",
    )
    messages = tuple(
        StoredMessage(7 + n, 1_000 + n, 9, False, f"m{n}", body) for n, body in enumerate(bodies)
    )
    return Batch(info, messages, "t0", 34_001)


def test_the_body_is_the_json_mapping_of_the_contract():
    bodies = [
        convert.body(pb.Message(id="m0", text="grüße"), {}),
        convert.body(pb.Message(id="m1", binary=b"\x00\xff", attributes={"k": "v"}), {}),
    ]
    body = batch_json(batch(*bodies), 4)
    assert "grüße".encode() in body
    assert json.loads(body) == {
        "info": {
            "batchId": "b1",
            "conversation": {"instance": "bot", "conversation": "ann"},
            "state": "BATCH_STATE_DELIVERING",
            "messageCount": 2,
            "payloadBytes": 9,
            "firstSequence": "7",
            "lastSequence": "8",
            "openedAt": "1970-01-01T00:00:01Z",
            "dueAt": "1970-01-01T00:00:09Z",
            "sealedAt": "1970-01-01T00:00:09.001Z",
            "flushReason": "FLUSH_REASON_DELAY",
            "attempt": 2,
            "maxAttempts": 4,
            "lastErrorReason": "HTTP_503",
        },
        "messages": [
            {
                "message": {"id": "m0", "text": "grüße", "contentType": "text/plain"},
                "sequence": "7",
                "receivedAt": "1970-01-01T00:00:01Z",
            },
            {
                "message": {
                    "id": "m1",
                    "binary": "AP8=",
                    "contentType": "application/octet-stream",
                    "attributes": {"k": "v"},
                },
                "sequence": "8",
                "receivedAt": "1970-01-01T00:00:01.001Z",
            },
        ],
        "leaseToken": "t0",
        "leaseExpiresAt": "1970-01-01T00:00:34.001Z",
    }


def test_a_batch_that_cannot_be_read_says_which_message_and_nothing_of_it():
    with pytest.raises(Unreadable, match="sequence 7 cannot be read"):
        batch_json(batch(b"\xffc4nary"), 4)
