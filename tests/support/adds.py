"""Messages that a store must take."""

from collections.abc import Sequence

from tidegate_server.core.model import NewMessage
from tidegate_server.store.base import Added, Store


async def take(store: Store, messages: Sequence[NewMessage]) -> list[Added]:
    """Add; fail if a limit refuses one."""
    results = await store.add(messages)
    added = [result for result in results if isinstance(result, Added)]
    assert len(added) == len(results)
    return added
