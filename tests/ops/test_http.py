"""Health, readiness and metrics, asked over a real connection."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate_server.config import Address
from tidegate_server.errors import StartupError, StoreUnavailable
from tidegate_server.metrics import COUNTERS, Metrics
from tidegate_server.ops import http
from tidegate_server.ops.http import OpsServer
from tidegate_server.store.base import Stats

ANY_PORT = [Address("127.0.0.1", 0)]


async def store_away() -> Stats:
    raise StoreUnavailable("the store is away")


async def store_hangs() -> Stats:
    await asyncio.Event().wait()
    return Stats()


@dataclass
class Running:
    """A server, and what it is told."""

    metrics: Metrics = field(default_factory=Metrics)
    reason: str | None = None
    stats: Stats = field(default_factory=Stats)
    ask: Callable[[], Awaitable[Stats]] | None = None
    asked: int = 0
    url: str = ""

    async def gauges(self) -> Stats:
        self.asked += 1
        return await self.ask() if self.ask else self.stats

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        async with aiohttp.request(method, self.url + path) as response:
            assert response.headers["Content-Type"].startswith("text/plain")
            return response.status, await response.text()

    async def scrape(self) -> dict[str, float]:
        status, text = await self.get("/metrics")
        assert status == 200
        return {
            sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    told = Running()
    server = OpsServer(
        ANY_PORT, metrics=told.metrics, ready=lambda: told.reason, gauges=told.gauges
    )
    await server.start()
    told.url = f"http://127.0.0.1:{server.port}"
    yield told
    await server.stop()


async def test_health_does_not_depend_on_the_store(running: Running) -> None:
    running.ask, running.reason = store_away, "the store is away"
    assert await running.get("/healthz") == (200, "ok")
    assert running.asked == 0


async def test_readiness_says_why_not(running: Running) -> None:
    assert await running.get("/readyz") == (200, "ready")
    running.reason = "the server is shutting down"
    assert await running.get("/readyz") == (503, "the server is shutting down")


async def test_the_index_names_the_paths(running: Running) -> None:
    status, text = await running.get("/")
    assert status == 200
    assert all(path in text for path in ("/healthz", "/readyz", "/metrics"))


async def test_other_paths_and_methods_are_answered_with_a_sentence(running: Running) -> None:
    assert await running.get("/nothing") == (404, "Nothing is here; GET / says what there is.")
    assert await running.get("/metrics", "POST") == (405, "Only GET is answered here.")


async def test_a_scrape_has_every_counter_and_gauge(running: Running) -> None:
    running.stats = Stats(1, 2, 3, 4, 5, 6_500)
    running.metrics.subscribers = 7
    running.metrics.refused["QUOTA_EXCEEDED"] += 8
    for number, spec in enumerate(COUNTERS, start=100):
        setattr(running.metrics, spec.attribute, number)
    scraped = await running.scrape()
    gauges = {
        "open_buffers": 1,
        "buffered_messages": 2,
        "batches_in_flight": 3,
        "batches_retrying": 4,
        "dead_letters": 5,
        "oldest_due_age_seconds": 6.5,
        "subscribers": 7,
        "messages_refused_total/QUOTA_EXCEEDED": 8,
        "store_up": 1,
    }
    for name, value in gauges.items():
        assert scraped[f"tidegate_{name}"] == value
    for number, spec in enumerate(COUNTERS, start=100):
        assert scraped[f"tidegate_{spec.name}"] == number
    assert sum(name.startswith("tidegate_build_info/") for name in scraped) == 1
    assert running.asked == 1


async def test_histograms_are_cumulative(running: Running) -> None:
    for seconds in (0.001, 0.0011, 60):
        running.metrics.lateness_seconds.observe(seconds)
    scraped = await running.scrape()
    assert scraped["tidegate_lateness_seconds_bucket/0.001"] == 1
    assert scraped["tidegate_lateness_seconds_bucket/0.002"] == 2
    assert scraped["tidegate_lateness_seconds_bucket/30.0"] == 2
    assert scraped["tidegate_lateness_seconds_bucket/+Inf"] == 3
    assert scraped["tidegate_lateness_seconds_count"] == 3
    assert scraped["tidegate_lateness_seconds_sum"] == pytest.approx(60.0021)


@pytest.mark.parametrize("ask", [store_away, store_hangs])
async def test_counters_are_served_without_the_store(
    running: Running, ask: Callable[[], Awaitable[Stats]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SCRAPE_TIMEOUT_SECONDS", 0.05)
    running.ask = ask
    running.metrics.added = 9
    scraped = await running.scrape()
    assert scraped["tidegate_store_up"] == 0
    assert scraped["tidegate_messages_added_total"] == 9
    assert "tidegate_open_buffers" not in scraped


async def test_a_failure_is_answered_without_its_traceback(running: Running) -> None:
    async def broken() -> Stats:
        raise RuntimeError("secret")

    running.ask = broken
    assert await running.get("/metrics") == (500, "This failed; the server's log says why.")


async def test_a_port_in_use_is_refused_with_a_sentence(running: Running) -> None:
    address = Address("127.0.0.1", int(running.url.rpartition(":")[2]))
    second = OpsServer(
        [*ANY_PORT, address], metrics=Metrics(), ready=lambda: None, gauges=running.gauges
    )
    with pytest.raises(StartupError) as caught:
        await second.start()
    assert str(caught.value) == (
        f"TIDEGATE_HTTP_LISTEN names {address}, which cannot be listened on"
        " (address already in use); stop what uses it or choose another address"
    )
    assert second.port == 0


async def test_requests_leave_no_line_in_the_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await running.get("/healthz")
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_nothing_is_listened_on_where_no_address_is_given(running: Running) -> None:
    server = OpsServer([], metrics=Metrics(), ready=lambda: None, gauges=running.gauges)
    await server.start()
    assert server.port == 0
    await server.stop()


async def test_bytes_that_are_no_http_leave_no_line_in_the_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert b" 400 " in await reader.read()
    writer.close()
    await writer.wait_closed()
    assert not caplog.records
