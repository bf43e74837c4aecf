"""Runs scripts on one partition, and knows which conversation a batch belongs to."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate_server.core.model import BatchInfo, Conversation, WindowPolicy
from tidegate_server.core.quota import Quota
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.errors import LeaseLost, NotFound, StoreDamaged
from tidegate_server.logs import get_logger
from tidegate_server.store import answers
from tidegate_server.store.dial import Dialer
from tidegate_server.store.keys import Keys, cid_of, conversation_of, partition_of
from tidegate_server.store.pipeline import Argument, Counters, Pipeline
from tidegate_server.store.scripts import RECONCILE, STATUS, Script

_REMEMBERED_BATCHES = 10_000
_LONGEST_AHEAD_MS = 7_200_000

_log = get_logger("tidegate.store")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the scripts are told about time and limits. `quota` is that of an instance."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    default_policy: WindowPolicy = field(default_factory=WindowPolicy)
    quota: Callable[[str], Quota] = field(default=lambda _: Quota())
    deduplication_ms: int = 3_600_000
    retain_status_ms: int = 3_600_000
    retain_processed_ms: int = 300_000


class Runner:
    """What all rooms of the store share. `clock` and `jitter` are for tests."""

    def __init__(
        self,
        dialer: Dialer,
        *,
        counters: Counters,
        prefix: str = "tg",
        partition: int = 0,
        timeout: float = 1.0,
        replicas: int = 0,
        rules: Rules | None = None,
        clock: Callable[[], int] | None = None,
        jitter: Callable[[], float] = random.random,
    ):
        self.keys = Keys(prefix, partition)
        self.pipeline = Pipeline(
            dialer,
            timeout=timeout,
            counters=counters,
            replicas=replicas,
            beat=self.keys.shared("beat"),
        )
        self.rules = rules or Rules()
        self.clock = clock
        self.jitter = jitter
        self.repaired = 0
        self._conversations: dict[str, Conversation] = {}

    def now(self) -> Argument:
        """The clock that the scripts are told: none, so that they ask the store's."""
        return "" if self.clock is None else self.clock()

    async def call(self, *args: Argument) -> Any:
        """The answer to a plain command."""
        return await self.pipeline.call(*args)

    async def run(self, script: Script, keys: Sequence[str], *args: Argument) -> Any:
        """The answer of a script."""
        return await self.pipeline.call("EVALSHA", script.sha, len(keys), *keys, self.now(), *args)

    async def run_on(
        self,
        script: Script,
        conversation: Conversation,
        *args: Argument,
        more_keys: Sequence[str] = (),
    ) -> Any:
        """The answer of a script about one conversation."""
        keys = [*self.keys.conversation(conversation), *more_keys]
        return await self.run(script, keys, cid_of(conversation), conversation.instance, *args)

    async def run_mended(
        self,
        script: Script,
        conversation: Conversation,
        *args: Argument,
        more_keys: Sequence[str] = (),
    ) -> Any:
        """The same; what the script stumbles over is repaired, and it runs once more."""
        try:
            return await self.run_on(script, conversation, *args, more_keys=more_keys)
        except StoreDamaged as error:
            await self.stumbled(error, [conversation])
            return await self.run_on(script, conversation, *args, more_keys=more_keys)

    async def stumbled(self, error: StoreDamaged, conversations: Iterable[Conversation]) -> None:
        """Repair what a script stumbled over; the next `reconcile` counts it."""
        _log.warning("a conversation's keys are damaged and are repaired", error=str(error))
        self.repaired += await self.mend(conversations)

    async def mend(self, conversations: Iterable[Conversation]) -> int:
        """Repair what cannot happen in these conversations; the number of repairs."""
        policy = answers.policy_line(self.rules.default_policy)
        repairs = await asyncio.gather(
            *(self.run_on(RECONCILE, one, policy, _LONGEST_AHEAD_MS) for one in conversations),
            return_exceptions=True,
        )
        for error in repairs:
            if isinstance(error, StoreDamaged):
                _log.error("a conversation's keys are damaged beyond repair", error=str(error))
            elif isinstance(error, BaseException):
                raise error
        return sum(number for number in repairs if isinstance(number, int))

    async def settle(
        self, script: Script, batch_id: str, conversation: Conversation, *args: Argument
    ) -> Any:
        """The answer of a script that needs the newest token.

        Raises:
            NotFound: No such batch, or forgotten.
            LeaseLost: Another claim or another settlement came first.
        """
        settled = self.keys.settled(batch_id, conversation.instance)
        answer = await self.run_mended(script, conversation, batch_id, *args, more_keys=settled)
        if answer[1] == b"UNKNOWN":
            raise NotFound("batch", batch_id)
        if answer[1] == b"LOST":
            raise LeaseLost(f"batch {batch_id} was given out again, or settled otherwise")
        return answer

    async def state(self, conversation: Conversation, *, messages: bool = False) -> answers.State:
        """All of a conversation but its buffered messages."""
        return answers.state(await self.run_on(STATUS, conversation, int(messages)), conversation)

    async def past(self, batch_id: str) -> BatchInfo | None:
        """A batch in a final state."""
        flat = await self.call("HGETALL", self.keys.of("s", batch_id))
        if not flat:
            return None
        status = answers.table(flat)
        return answers.past(batch_id, conversation_of(status[b"cid"]), status)

    async def find(self, batch_id: str) -> Conversation:
        """The conversation of a batch: remembered from its claim here, or asked for.

        The partition that the id names formed the batch, and need not be the one that has it: ids
        stay what they are when a store moves.

        Raises:
            NotFound: No such batch, or forgotten.
        """
        known = self._conversations.get(batch_id)
        if known:
            return known
        if partition_of(batch_id) is None:
            raise NotFound("batch", batch_id)
        cid = await self.call("HGET", self.keys.shared("idx"), batch_id)
        cid = cid or await self.call("HGET", self.keys.of("s", batch_id), "cid")
        if not cid:
            raise NotFound("batch", batch_id)
        conversation = conversation_of(cid)
        self.remember(batch_id, conversation)
        return conversation

    def remember(self, batch_id: str, conversation: Conversation) -> None:
        """Know the newest batches' conversations, so that settling them takes one round trip."""
        self._conversations[batch_id] = conversation
        if len(self._conversations) > _REMEMBERED_BATCHES:
            del self._conversations[next(iter(self._conversations))]
