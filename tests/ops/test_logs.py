import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from tidegate_server.core.model import Conversation
from tidegate_server.logs import PRIVATE, configure, get_logger

CANARY = "c4nary"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the libraries' logging as it was."""
    root, shown = logging.getLogger(), warnings.showwarning
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, warnings.showwarning = handlers, level, shown
    structlog.reset_defaults()


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_an_event_is_one_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log = get_logger("tidegate.test")
    configure("info", "json")
    log.info("batch delivered", batch_id="b1", attempt=2)
    log.debug("not shown")
    (event,) = events(capsys)
    assert event.pop("timestamp")
    assert event == {
        "event": "batch delivered",
        "level": "info",
        "logger": "tidegate.test",
        "batch_id": "b1",
        "attempt": 2,
    }


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_private_fields_are_never_logged(capsys: pytest.CaptureFixture[str], fmt: str) -> None:
    configure("debug", fmt)
    log = get_logger("tidegate.test").bind(token=CANARY)
    log.warning("event", **dict.fromkeys(PRIVATE, CANARY), Payload=CANARY)
    log.warning("event", who=Conversation("bot", CANARY), many=[CANARY], raw=CANARY.encode())
    log.warning("event", kept="kept")
    text = capsys.readouterr().err
    assert CANARY not in text
    assert "Conversation" in text
    assert "kept" in text


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_a_traceback_shows_places_and_neither_variables_nor_texts(
    capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    configure("info", fmt)

    def fail(secret: str) -> None:
        try:
            int(secret)
        except ValueError as error:
            raise RuntimeError(secret) from error

    try:
        fail(CANARY[:3] + CANARY[3:])
    except RuntimeError:
        get_logger("tidegate.test").exception("failed")
        logging.getLogger("asyncio").exception("failed")
    text = capsys.readouterr().err
    for told in ("ValueError", "RuntimeError", "int(secret)", "in fail", "test_logs.py"):
        assert text.count(told) >= 2
    assert CANARY not in text


def test_what_the_system_says_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    try:
        raise ConnectionRefusedError(111, "Connection refused", CANARY)
    except OSError:
        get_logger("tidegate.test").exception("failed")
    text = capsys.readouterr().err
    assert "ConnectionRefusedError: Connection refused" in text
    assert CANARY not in text


def test_libraries_log_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    logging.getLogger("grpc._server").warning("bad %s", "thing")
    logging.getLogger("grpc._server").info("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = events(capsys)
    assert (first["event"], first["logger"], first["level"]) == (
        "bad thing",
        "grpc._server",
        "warning",
    )
    assert "DeprecationWarning: old" in str(second["event"])


def test_auto_is_json_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "auto")
    get_logger("tidegate.test").info("event")
    assert events(capsys)[0]["event"] == "event"


def test_a_second_configure_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    configure("error", "json")
    get_logger("tidegate.test").warning("not shown")
    logging.getLogger("grpc").error("once")
    assert len(events(capsys)) == 1
