"""What was put back into a buffer is not newer than the batch in front of it."""

from tests.store.conftest import Real
from tests.store.test_real_store import ANN, message
from tidegate_server.core.model import BatchState, DeliveryChannel, NackAction, WindowPolicy
from tidegate_server.store.base import Store
from tidegate_server.store.memory import MemoryStore

WIDE, NARROW = (WindowPolicy(delay_ms=0, grace_ms=0, max_messages=most) for most in (5, 1))


async def test_a_batch_is_current_when_only_older_messages_wait_behind_it(real: Real):
    for store in (real.store(), MemoryStore()):
        await store.add([message("m1", policy=WIDE), message("m2", policy=WIDE)])
        first = await claim(store, "one")
        await store.add([message("m3", policy=NARROW)])
        await store.nack(first, "one", NackAction.REBUFFER)
        second = await claim(store, "two")
        await store.remove(ANN, "m3")
        settled = await store.ack(second, "two", only_if_current=True)
        assert settled.state is BatchState.COMPLETED


async def claim(store: Store, token: str) -> str:
    claimed = await store.claim(
        ANN, token=token, lease_ms=60_000, subscriber_id="", channel=DeliveryChannel.PULL
    )
    assert claimed.batch
    return claimed.batch.info.batch_id
