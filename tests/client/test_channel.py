import json
import re
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tidegate import Client, InvalidArgument, _channel, blocking
from tidegate.v1 import buffer_service_pb2 as buffer_pb2

PROTO = Path(__file__).parents[2] / "proto" / "tidegate" / "v1"


def test_the_service_config_is_the_published_one():
    published = json.loads((PROTO / "service_config.json").read_text())
    assert _channel.service_config() == published
    assert json.loads(str(dict(_channel.OPTIONS)["grpc.service_config"])) == published


def test_every_unary_call_but_pull_is_retried_and_no_stream():
    (config,) = _channel.service_config()["methodConfig"]
    retried = {name["method"] for name in config["name"]}
    assert {"AddMessage", "AckBatch", "NackBatch", "ExtendLease", "GetStats"} <= retried
    assert not {"Pull", "Subscribe", "StreamMessages", "WatchEvents"} & retried
    assert "timeout" not in config


def test_the_deadlines_are_those_of_the_contract():
    text = "".join(path.read_text() for path in sorted(PROTO.glob("*_service.proto")))
    advised: dict[str, float] = {}
    for comment, method in re.findall(r"((?:^ *//.*\n)+) *rpc (\w+)\(", text, re.MULTILINE):
        deadline = re.search(r"Deadline: (\d+) s", comment)
        if deadline:
            advised[method] = float(deadline[1])
    for request, seconds in _channel.DEADLINES.items():
        method = request.DESCRIPTOR.name.removesuffix("Request")
        assert advised[method] == seconds, method


def test_a_timeout_replaces_the_deadline():
    request = buffer_pb2.AddMessageRequest()
    assert _channel.seconds(None, request) == 1
    assert _channel.seconds(timedelta(seconds=2.5), request) == 2.5


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:7460",
        "gate.example.org:443",
        "[::1]:7460",
        "unix:/run/tidegate.sock",
        "unix:///run/tidegate.sock",
        "unix-abstract:tidegate",
        "dns:///gate:7460",
    ],
)
def test_good_targets_are_taken(target: str):
    assert _channel.check_target(target) == target


@pytest.mark.parametrize(
    "target", ["", "localhost", "http://127.0.0.1:7460", "/run/tidegate.sock", "a b:1", "host:port"]
)
def test_a_wrong_target_is_answered_with_what_to_give(target: str):
    with pytest.raises(InvalidArgument, match="host:port"):
        Client(target)


@pytest.mark.parametrize("token", ["", "secret\n", "geheim\u00e4", "two words"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str):
    with pytest.raises(InvalidArgument, match="visible ASCII") as caught:
        Client("127.0.0.1:7460", token=token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, blocking.Client])
@pytest.mark.parametrize(
    "target",
    ["gate.example.org:443", "10.0.0.1:7460", "dns:///gate:7460", "[::2]:7460", "ipv4:9:1"],
)
async def test_a_token_does_not_leave_the_machine_in_clear_text(
    kind: type[Client | blocking.Client], target: str
):
    with pytest.raises(InvalidArgument, match="in clear text") as caught:
        kind(target, token="s3cret")
    assert "s3cret" not in str(caught.value)
    kind(target, token="s3cret", insecure_token=True)
    kind(target, token="s3cret", credentials=grpc.ssl_channel_credentials())
    kind(target)


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/x", "dns:///localhost:1", "ipv4:127.0.0.1:1"],
)
async def test_on_the_machine_itself_it_does(target: str):
    Client(target, token="s3cret")


async def test_a_function_is_asked_for_the_token_before_every_call():
    tokens = iter(["one", "two", "three\n"])
    connection = _channel.AsyncConnection(
        "unix:/x",
        token=lambda: next(tokens),
        credentials=None,
        channel=None,
        insecure_token=False,
    )
    assert connection.metadata == (("authorization", "Bearer one"),)
    assert connection.metadata == (("authorization", "Bearer two"),)
    with pytest.raises(InvalidArgument, match="line break at its end"):
        _ = connection.metadata


async def test_files_of_certificates_that_cannot_be_used_are_refused(tmp_path: Path):
    empty, absent = tmp_path / "empty.pem", tmp_path / "absent.pem"
    empty.touch()
    with pytest.raises(InvalidArgument, match="cannot be read: No such file"):
        Client(ca_file=absent)
    with pytest.raises(InvalidArgument, match="has no PEM"):
        Client(ca_file=str(empty))
    with pytest.raises(InvalidArgument, match="cert_file and key_file together"):
        Client(cert_file=empty)
    with pytest.raises(InvalidArgument, match="not both"):
        Client(ca_file=empty, credentials=grpc.ssl_channel_credentials())


async def test_a_client_does_not_show_its_token():
    shown = f"{Client(token='s3cret')!r} {blocking.Client(token='s3cret')!r}"
    assert "s3cret" not in shown
