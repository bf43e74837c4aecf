"""Each RPC of the contract against everybody who may not call it."""

import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from tests.security.gate import ANNA, METHODS, Guests, role_of
from tests.support.secured import Token
from tidegate.v1 import admin_service_pb2 as admin
from tidegate.v1 import buffer_service_pb2 as buffer
from tidegate.v1 import delivery_service_pb2 as delivery
from tidegate.v1 import types_pb2 as pb

EVERY = sorted(METHODS)
FOR_ANY_TOKEN = {"GetServerInfo"}

REFUSED = StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"
HIDDEN = StatusCode.NOT_FOUND, "NOT_FOUND"


@pytest.mark.parametrize("name", EVERY)
def test_without_a_token(guests: Guests, name: str):
    answer = guests.call(name)
    assert (answer.code, answer.reason) == (StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS")


@pytest.mark.parametrize("name", EVERY)
def test_with_a_wrong_token(guests: Guests, name: str):
    answer = guests.call(name, token=Token("wr0ng"))
    assert (answer.code, answer.reason) == (StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS")
    assert "wr0ng" not in answer.text


@pytest.mark.parametrize("name", sorted(set(EVERY) - FOR_ANY_TOKEN))
def test_with_a_token_of_another_role(guests: Guests, name: str):
    others = ANNA.without(role_of(METHODS[name]))
    assert others
    for token in others:
        answer = guests.call(name, token=token)
        assert (answer.code, answer.reason) == REFUSED


@pytest.mark.parametrize("name", EVERY)
def test_with_a_certificate_of_another_authority(guests: Guests, name: str):
    answer = guests.call(name, token=ANNA.everything, channel=guests.stranger)
    assert answer.code is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("name", EVERY)
def test_without_a_certificate(guests: Guests, name: str):
    answer = guests.call(name, token=ANNA.everything, channel=guests.nobody)
    assert answer.code is StatusCode.UNAVAILABLE


def test_without_tls(guests: Guests):
    answer = guests.call("GetServerInfo", token=ANNA.everything, channel=guests.plain)
    assert answer.code is StatusCode.UNAVAILABLE


def test_any_token_may_ask_what_the_server_is(guests: Guests):
    for token in ANNA.tokens:
        assert guests.call("GetServerInfo", token=token).code is StatusCode.OK


def entry(instance: str, name: str = "m") -> buffer.AddMessageRequest:
    message = pb.Message(id=name, text="hello")
    return buffer.AddMessageRequest(instance=instance, conversation="ann", message=message)


THEIRS = pb.ConversationRef(instance="theirs", conversation="ann")
# What each RPC is asked about the instance of others. Those of a batch come with its id.
ABOUT_OTHERS: dict[str, Message] = {
    "AddMessage": entry("theirs"),
    "AddMessages": buffer.AddMessagesRequest(messages=[entry("mine"), entry("theirs")]),
    "StreamMessages": buffer.StreamMessagesRequest(messages=[entry("mine"), entry("theirs")]),
    "GetStatus": buffer.GetStatusRequest(conversation=THEIRS),
    "Flush": buffer.FlushRequest(conversation=THEIRS),
    "HoldWindow": buffer.HoldWindowRequest(conversation=THEIRS),
    "AmendMessage": buffer.AmendMessageRequest(
        conversation=THEIRS, message=pb.Message(id="m", text="t")
    ),
    "RemoveMessage": buffer.RemoveMessageRequest(conversation=THEIRS, message_id="m"),
    "Discard": buffer.DiscardRequest(conversation=THEIRS),
    "Subscribe": delivery.SubscribeRequest(subscriber_id="s", instances=["mine", "theirs"]),
    "Pull": delivery.PullRequest(subscriber_id="s", instances=["mine", "theirs"]),
    "AckBatch": delivery.AckBatchRequest(lease_token="t"),
    "NackBatch": delivery.NackBatchRequest(lease_token="t"),
    "ExtendLease": delivery.ExtendLeaseRequest(lease_token="t"),
    "GetServerInfo": admin.GetServerInfoRequest(),
    "GetStats": admin.GetStatsRequest(instance="theirs"),
    "ListConversations": admin.ListConversationsRequest(instance="theirs"),
    "ListDeadLetters": admin.ListDeadLettersRequest(instance="theirs"),
    "GetBatch": admin.GetBatchRequest(),
    "TrackMessage": admin.TrackMessageRequest(conversation=THEIRS, message_id="m"),
    "RequeueDeadLetters": admin.RequeueDeadLettersRequest(),
    "DeleteDeadLetters": admin.DeleteDeadLettersRequest(),
    "EraseConversation": admin.EraseConversationRequest(conversation=THEIRS),
    "WatchEvents": admin.WatchEventsRequest(instance="theirs"),
}
OF_A_BATCH = {"AckBatch", "NackBatch", "ExtendLease", "GetBatch"}
OF_DEAD_LETTERS = {"RequeueDeadLetters", "DeleteDeadLetters"}
ITS_OWN_WAY = {"GetServerInfo", "AddMessages", "StreamMessages"} | OF_A_BATCH | OF_DEAD_LETTERS


def test_every_call_is_asked_about_others():
    assert set(ABOUT_OTHERS) == set(METHODS)


@pytest.mark.parametrize("name", sorted(set(METHODS) - ITS_OWN_WAY))
def test_about_an_instance_of_others(guests: Guests, name: str):
    answer = guests.call(name, ABOUT_OTHERS[name], ANNA.mine)
    assert (answer.code, answer.reason) == REFUSED


@pytest.mark.parametrize("name", ["AddMessages", "StreamMessages"])
def test_an_entry_of_others_fails_and_the_rest_is_added(guests: Guests, name: str):
    answer = guests.call(name, ABOUT_OTHERS[name], ANNA.mine)
    kind = buffer.AddMessagesResponse if name == "AddMessages" else buffer.StreamMessagesResponse
    mine, theirs = kind.FromString(answer.response or b"").results
    assert mine.response.success
    assert theirs.error.code == StatusCode.PERMISSION_DENIED.value[0]
    assert theirs.error.reason == pb.ERROR_REASON_NOT_ALLOWED


@pytest.fixture(scope="module")
def batch(guests: Guests) -> pb.Batch:
    """A batch of others, and its lease."""
    return pull(guests, "leased")


def pull(guests: Guests, name: str) -> pb.Batch:
    added = guests.call("AddMessage", entry("theirs", name), ANNA.everything)
    assert added.code is StatusCode.OK
    request = delivery.PullRequest(subscriber_id="s", instances=["theirs"])
    response = guests.call("Pull", request, ANNA.everything).response
    return delivery.PullResponse.FromString(response or b"").batches[0]


@pytest.mark.parametrize("name", sorted(OF_A_BATCH))
def test_a_batch_of_others_is_answered_as_one_that_never_was(
    guests: Guests, batch: pb.Batch, name: str
):
    answers = []
    for batch_id in (batch.info.batch_id, "0-1-1"):
        fields = {"batch_id": batch_id}
        if name != "GetBatch":
            fields["lease_token"] = batch.lease_token
        request = type(ABOUT_OTHERS[name])(**fields)
        answer = guests.call(name, request, ANNA.mine)
        assert (answer.code, answer.reason) == HIDDEN
        answers.append(answer.text.replace(batch_id, "?"))
    assert len(set(answers)) == 1


def test_dead_letters_of_others_stay_as_they_are(guests: Guests, batch: pb.Batch):
    # A batch is settled before the conversation's next, so this uses up the shared one.
    info = batch.info
    nack = delivery.NackBatchRequest(
        batch_id=info.batch_id,
        lease_token=batch.lease_token,
        action=delivery.NACK_ACTION_DEAD_LETTER,
    )
    assert guests.call("NackBatch", nack, ANNA.everything).code is StatusCode.OK
    for name in sorted(OF_DEAD_LETTERS):
        request = type(ABOUT_OTHERS[name])(batch_ids=[info.batch_id, "0-1-1"])
        response = guests.call(name, request, ANNA.mine).response or b""
        results = admin.DeleteDeadLettersResponse.FromString(response).results
        assert [result.applied for result in results] == [False, False]
    request = admin.DeleteDeadLettersRequest(batch_ids=[info.batch_id])
    response = guests.call("DeleteDeadLetters", request, ANNA.everything).response or b""
    assert admin.DeleteDeadLettersResponse.FromString(response).results[0].applied


@pytest.mark.parametrize(
    "name", ["GetStats", "ListConversations", "ListDeadLetters", "WatchEvents"]
)
def test_a_listing_of_everything_is_for_who_may_see_everything(guests: Guests, name: str):
    answer = guests.call(name, token=ANNA.mine)
    assert (answer.code, answer.reason) == REFUSED
    own = type(ABOUT_OTHERS[name])(instance="mine")
    if name != "WatchEvents":
        assert guests.call(name, own, ANNA.mine).code is StatusCode.OK
        assert guests.call(name, token=ANNA.global_admin).code is StatusCode.OK


def test_counters_of_all_instances_are_for_who_may_see_all(guests: Guests):
    request = admin.GetStatsRequest(instance="mine")
    for token, counts in ((ANNA.mine, False), (ANNA.everything, True)):
        response = guests.call("GetStats", request, token).response or b""
        assert bool(admin.GetStatsResponse.FromString(response).counters) is counts


def test_a_subscriber_that_names_no_instance_gets_batches_of_its_own(guests: Guests):
    for instance in ("theirs", "also-mine"):
        assert guests.call("AddMessage", entry(instance, "own"), ANNA.everything).response
    request = delivery.PullRequest(subscriber_id="s", max_batches=10)
    response = guests.call("Pull", request, ANNA.mine).response or b""
    batches = delivery.PullResponse.FromString(response).batches
    assert {batch.info.conversation.instance for batch in batches} <= {"mine", "also-mine"}
    assert batches


def test_what_is_there_of_others_cannot_be_found_out(guests: Guests):
    there = buffer.GetStatusRequest(conversation=THEIRS)
    nowhere = buffer.GetStatusRequest(
        conversation=pb.ConversationRef(instance="nobody", conversation="x")
    )
    assert guests.call("GetStatus", there, ANNA.producer) == guests.call(
        "GetStatus", nowhere, ANNA.producer
    )
