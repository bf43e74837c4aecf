"""AdminService: the operator's side."""

import base64
import binascii
import json
from dataclasses import dataclass

from tidegate.v1 import admin_service_pb2 as rpc
from tidegate_server.api import convert, validate
from tidegate_server.api.rpc import Call
from tidegate_server.core.model import BatchInfo, WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import InvalidField
from tidegate_server.metrics import Metrics

LONGEST_TOKEN = 1024


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
        """Gauges of the store and counters of this replica."""
        instance = validate.instance_filter(request.instance)
        stats = await call.in_time(self._engine.store.stats(instance))
        return rpc.GetStatsResponse(
            open_buffers=stats.open_buffers,
            buffered_messages=stats.buffered_messages,
            delivering_batches=stats.delivering_batches,
            retrying_batches=stats.retrying_batches,
            dead_letters=stats.dead_letters,
            subscribers=len(self._engine.subscribers),
            oldest_due_age=convert.duration(stats.oldest_due_age_ms),
            counters=self._metrics.snapshot(),
        )

    async def list_dead_letters(
        self, request: rpc.ListDeadLettersRequest, call: Call
    ) -> rpc.ListDeadLettersResponse:
        """One page of dead letters, newest first."""
        instance = validate.instance_filter(request.instance)
        page = _Page(validate.page_size(request.page_size), request.instance)
        before = page.start(request.page_token)
        found = await call.in_time(
            self._engine.store.dead_letters(instance, limit=page.size + 1, before=before)
        )
        shown = found[: page.size]
        return rpc.ListDeadLettersResponse(
            batches=[convert.batch_info(info, self._facts.max_attempts) for info in shown],
            next_page_token=page.token(shown[-1]) if len(found) > page.size else "",
        )

    async def get_batch(self, request: rpc.GetBatchRequest, call: Call) -> rpc.GetBatchResponse:
        """One batch with its messages and attempts. A message that cannot be read is left empty."""
        batch_id = validate.batch_id(request.batch_id)
        found = await call.in_time(self._engine.store.batch(batch_id))
        response = rpc.GetBatchResponse(
            batch=convert.batch_info(found.info, self._facts.max_attempts),
            attempts=[convert.attempt(attempt) for attempt in found.attempts],
        )
        for stored in found.messages:
            convert.try_fill_message(response.messages.add(), stored)
        return response


@dataclass(frozen=True, slots=True)
class _Page:
    """The fields of a list request that must stay the same from page to page."""

    size: int
    instance: str

    def token(self, last: BatchInfo) -> str:
        """Names the page after the one that ends with `last`."""
        place = [self.size, self.instance, last.settled_at_ms or 0, last.batch_id]
        return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()

    def start(self, token: str) -> tuple[int, str] | None:
        """Where the page that `token` names begins: after this settled time and batch id."""
        if not token:
            return None
        match _decode(token):
            case [self.size, self.instance, int(settled_at_ms), str(batch_id)] if (
                0 <= settled_at_ms < 1 << 53 and validate.is_batch_id(batch_id)
            ):
                return settled_at_ms, batch_id
            case [int(), str(), int(), str()]:
                rule = "belongs to a request with another page_size or instance"
                raise InvalidField("page_token", rule)
            case _:
                raise InvalidField("page_token", "is none that this server gave out")


def _decode(token: str) -> object:
    if len(token) > LONGEST_TOKEN:
        return None
    try:
        return json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
