"""AdminService: the operator's side."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tidegate.v1 import admin_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.api import convert, validate
from tidegate_server.api.pages import Page, Place
from tidegate_server.api.rpc import Call, must_cover
from tidegate_server.core.model import BatchInfo, WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import NotFound
from tidegate_server.metrics import Metrics
from tidegate_server.store.base import Listed
from tidegate_server.store.keys import cid_of


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself, and the limits it holds its callers to."""

    version: str
    replica_id: str
    started_at_ms: int
    default_policy: WindowPolicy
    max_message_bytes: int
    max_attempts: int
    durability: str
    store: str
    capabilities: tuple[str, ...] = ()


class AdminService:
    """Answers the command line, the console and monitoring."""

    def __init__(self, engine: Engine, metrics: Metrics, facts: ServerFacts):
        self._engine = engine
        self._metrics = metrics
        self._facts = facts

    async def get_server_info(
        self, request: rpc.GetServerInfoRequest, call: Call
    ) -> rpc.GetServerInfoResponse:
        """Version, limits and capabilities."""
        facts = self._facts
        return rpc.GetServerInfoResponse(
            version=facts.version,
            replica_id=facts.replica_id,
            started_at=convert.timestamp(facts.started_at_ms),
            default_policy=convert.policy(facts.default_policy),
            max_message_bytes=facts.max_message_bytes,
            max_attempts=facts.max_attempts,
            durability=facts.durability,
            store=facts.store,
            capabilities=facts.capabilities,
            draining=self._engine.draining,
        )

    async def get_stats(self, request: rpc.GetStatsRequest, call: Call) -> rpc.GetStatsResponse:
        """Gauges of the store and counters of this replica.

        The latter count all instances together, and are left out for who may not see all.
        """
        instance = call.access.one(validate.instance_filter(request.instance))
        stats = await call.in_time(self._engine.store.stats(instance))
        sees_all = call.access.instances is None
        return rpc.GetStatsResponse(
            open_buffers=stats.open_buffers,
            buffered_messages=stats.buffered_messages,
            delivering_batches=stats.delivering_batches,
            retrying_batches=stats.retrying_batches,
            dead_letters=stats.dead_letters,
            subscribers=len(self._engine.subscribers) if sees_all else 0,
            oldest_due_age=convert.duration(stats.oldest_due_age_ms),
            counters=self._metrics.snapshot() if sees_all else {},
        )

    async def list_dead_letters(
        self, request: rpc.ListDeadLettersRequest, call: Call
    ) -> rpc.ListDeadLettersResponse:
        """One page of dead letters, newest first."""
        instance = call.access.one(validate.instance_filter(request.instance))
        page = Page("dead letters", validate.page_size(request.page_size), request.instance)
        before = page.start(request.page_token, is_name=validate.is_batch_id)
        found = await call.in_time(
            self._engine.store.dead_letters(instance, limit=page.size + 1, before=before)
        )
        shown = found[: page.size]
        return rpc.ListDeadLettersResponse(
            batches=[convert.batch_info(info, self._facts.max_attempts) for info in shown],
            next_page_token=_after(page, shown[-1]) if len(found) > page.size else "",
        )

    async def get_batch(self, request: rpc.GetBatchRequest, call: Call) -> rpc.GetBatchResponse:
        """One batch with its messages and attempts. A message that cannot be read is left empty."""
        batch_id = validate.batch_id(request.batch_id)
        found = await call.in_time(self._engine.store.batch(batch_id))
        if not call.access.covers(found.info.conversation.instance):
            raise NotFound("batch", batch_id)
        response = rpc.GetBatchResponse(
            batch=convert.batch_info(found.info, self._facts.max_attempts),
            attempts=[convert.attempt(attempt) for attempt in found.attempts],
        )
        for stored in found.messages:
            convert.try_fill_message(response.messages.add(), stored)
        return response

    async def list_conversations(
        self, request: rpc.ListConversationsRequest, call: Call
    ) -> rpc.ListConversationsResponse:
        """One page of conversations, soonest first."""
        instance = call.access.one(validate.instance_filter(request.instance))
        page = Page("conversations", validate.page_size(request.page_size), request.instance)
        after = page.start(request.page_token, is_name=_is_cid)
        found = await call.in_time(self._conversations(instance, page.size + 1, after))
        response = rpc.ListConversationsResponse(
            conversations=map(self._conversation, found[: page.size])
        )
        if len(found) > page.size:
            last = found[page.size - 1]
            response.next_page_token = page.token(last.place_ms, cid_of(last.conversation))
        return response

    async def track_message(
        self, request: rpc.TrackMessageRequest, call: Call
    ) -> rpc.TrackMessageResponse:
        """Follow one message."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        message_id = validate.required_message_id(request.message_id, "message_id")
        tracked = await call.in_time(self._engine.store.track(conversation, message_id))
        return rpc.TrackMessageResponse(
            sequence=tracked.sequence,
            received_at=convert.timestamp(tracked.received_at_ms),
            duplicates=tracked.duplicates,
            buffer=convert.optional_buffer(tracked.buffer),
            batch=self._batch(tracked.batch),
            attempts=map(convert.attempt, tracked.attempts),
        )

    async def requeue_dead_letters(
        self, request: rpc.RequeueDeadLettersRequest, call: Call
    ) -> rpc.RequeueDeadLettersResponse:
        """Put the messages of dead letters back into their buffers, in the order of the ids."""
        batch_ids = validate.batch_ids(request.batch_ids)
        results = await call.in_time(self._one_by_one(self._requeue, batch_ids, call))
        return rpc.RequeueDeadLettersResponse(results=results)

    async def delete_dead_letters(
        self, request: rpc.DeleteDeadLettersRequest, call: Call
    ) -> rpc.DeleteDeadLettersResponse:
        """Throw dead letters away."""
        batch_ids = validate.batch_ids(request.batch_ids)
        results = await call.in_time(self._one_by_one(self._engine.delete, batch_ids, call))
        return rpc.DeleteDeadLettersResponse(results=results)

    async def erase_conversation(
        self, request: rpc.EraseConversationRequest, call: Call
    ) -> rpc.EraseConversationResponse:
        """Forget all that is stored of a conversation."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        erased = await call.in_time(self._engine.erase(conversation))
        return rpc.EraseConversationResponse(erased_messages=erased.messages)

    async def watch_events(self, request: rpc.WatchEventsRequest, call: Call) -> None:
        """Stream what happens until the client leaves or the server drains."""
        instance = call.access.one(validate.instance_filter(request.instance))
        tail = self._engine.watch(instance)
        try:
            while event := await tail.next():
                await call.write(convert.event(event, self._facts.max_attempts))
        finally:
            self._engine.unwatch(tail)

    async def _conversations(
        self, instance: str | None, count: int, after: Place | None
    ) -> list[Listed]:
        """The next ones. The store leaves out those that end just then, so it is asked again."""
        found: list[Listed] = []
        while len(found) < count:
            missing = count - len(found)
            more = await self._engine.store.conversations(instance, limit=missing, after=after)
            if not more:
                break
            found += more
            after = more[-1].place_ms, cid_of(more[-1].conversation)
        return found

    def _conversation(self, listed: Listed) -> rpc.ConversationInfo:
        return rpc.ConversationInfo(
            conversation=convert.conversation(listed.conversation),
            buffer=convert.optional_buffer(listed.buffer),
            current_batch=self._batch(listed.current_batch),
        )

    def _batch(self, info: BatchInfo | None) -> pb.BatchInfo | None:
        return convert.batch_info(info, self._facts.max_attempts) if info else None

    async def _requeue(self, batch_id: str) -> bool:
        return (await self._engine.requeue(batch_id)).applied

    async def _one_by_one(
        self, act: Callable[[str], Awaitable[bool]], batch_ids: Sequence[str], call: Call
    ) -> list[rpc.BatchActionResult]:
        """What became of each. Should it fail half way, a repeat does the rest."""
        results: list[rpc.BatchActionResult] = []
        for batch_id in batch_ids:
            is_there = validate.is_batch_id(batch_id) and await self._is_covered(batch_id, call)
            applied = bool(is_there) and await act(batch_id)
            results.append(rpc.BatchActionResult(batch_id=batch_id, applied=applied))
        return results

    async def _is_covered(self, batch_id: str, call: Call) -> bool:
        try:
            await must_cover(self._engine.store, batch_id, call)
        except NotFound:
            return False
        return True


def _after(page: Page, last: BatchInfo) -> str:
    return page.token(last.settled_at_ms or 0, last.batch_id)


def _is_cid(name: str) -> bool:
    return "/" in name and name.encode(errors="ignore").decode() == name
