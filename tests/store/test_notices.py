import json

import pytest

from tests.store.conftest import Real
from tests.support.stores import eventually
from tidegate_server.core.model import (
    BatchInfo,
    BatchState,
    BufferInfo,
    BufferState,
    Conversation,
    FlushReason,
    WindowMode,
    WindowPolicy,
)
from tidegate_server.store import notices
from tidegate_server.store.notices import event_of, event_row, notice_of, notice_row
from tidegate_server.store.signals import EventKind, LiveEvent, Notice, NoticeKind, mark_of

ANN = Conversation("bot", "ünn/{x}")
BUFFER = BufferInfo(BufferState.OPEN, 2, 10, 1, 2, 3, WindowPolicy(mode=WindowMode.SLIDING))
BATCH = BatchInfo(
    *("0-1-2", ANN, BatchState.DELIVERING, 2, 10, 5, 6, 1, 3, 4),
    *(FlushReason.REQUESTED, 1, None, None, None, "NACKED", "a word", 3),
)
EVENTS = [
    LiveEvent(EventKind.MESSAGE_ADDED, ANN, 7, message_id="m1", buffer=BUFFER),
    LiveEvent(EventKind.BATCH_DELIVERED, ANN, 7, batch_id="0-1-2", batch=BATCH, dropped=4),
    LiveEvent(
        EventKind.BATCH_RETRY_SCHEDULED,
        ANN,
        7,
        batch_id="0-1-2",
        state=BatchState.RETRY_SCHEDULED,
        next_attempt_at_ms=9,
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind.name)
def test_an_event_survives_the_channel(event: LiveEvent):
    assert event_of(json.loads(json.dumps(event_row(event)))) == event


@pytest.mark.parametrize("kind", NoticeKind)
def test_a_notice_survives_the_channel(kind: NoticeKind):
    notice = Notice(kind, ANN, "0-1-2", 5, mark_of("token"))
    assert notice_of(json.loads(json.dumps(notice_row(notice)))) == notice


def test_a_mark_gives_no_token_away():
    assert len({mark_of(f"token {n}") for n in range(100)}) == 100
    assert "token" not in mark_of("token 1")


async def test_events_reach_the_servers_that_watch_and_only_while_they_do(real: Real):
    one, other = real.store(), real.store()
    channel, seen = one.runners[0].keys.events, list[LiveEvent]()

    async def listeners() -> int:
        found = await real.client.pubsub_numsub(channel)  # pyright: ignore[reportGeneralTypeIssues]
        return found[0][1]

    async def listen(count: int) -> None:
        async def so_many() -> bool:
            return await listeners() == count

        await eventually(so_many)

    await one.publish(EVENTS)
    for _ in range(2):
        seen.clear()
        other.watch(seen.append)
        one.watch(lambda _: pytest.fail("a server hears itself"))
        await listen(2)
        await real.client.publish(channel, "no event at all")
        await one.publish(EVENTS)
        await eventually(lambda: seen == EVENTS)
        other.watch(None)
        one.watch(None)
        await listen(0)


async def test_a_channel_outlives_a_long_silence(real: Real, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notices, "_SILENCE_S", 0.02)
    one, other = real.store(), real.store()
    heard: list[Notice] = []
    one.listen(heard.append)
    await eventually(lambda: pings(real, 5))
    await other.tell([Notice(NoticeKind.DUE, ANN, at_ms=5)])
    await eventually(lambda: bool(heard))


async def pings(real: Real, count: int) -> bool:
    calls: int = (await real.client.info("commandstats")).get("cmdstat_ping", {}).get("calls", 0)
    return calls >= count


@pytest.mark.parametrize(
    "row",
    [
        ["due", 5, "", 7, ""],
        ["due", "bot/anna", None, 7, ""],
        ["due", "bot/anna", "", "soon", ""],
        ["due", "bot/anna", "", True, ""],
        ["due", "bot/anna", "", 1 << 60, ""],
        ["due", "bot/\ud800", "", 7, ""],
    ],
)
def test_a_notice_with_fields_of_other_types_is_none(row: list[object]):
    with pytest.raises((ValueError, TypeError)):
        notice_of(row)


@pytest.mark.parametrize("place", range(len(event_row(EVENTS[0]))))
def test_an_event_with_a_field_of_another_type_is_none(place: int):
    row = event_row(EVENTS[0])
    row[place] = {"a": 1}
    with pytest.raises((ValueError, TypeError)):
        event_of(row)
