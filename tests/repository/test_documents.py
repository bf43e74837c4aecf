"""What the documents say is so."""

import re
from pathlib import Path

import pytest

from tests.repository.paths import ROOT, documents, table
from tidegate.v1 import types_pb2
from tidegate_server.config import ConfigError, Push, Settings, load_settings
from tidegate_server.config.settings import KEYS, env_name
from tidegate_server.config.sources import ALIASES
from tidegate_server.config.values import show
from tidegate_server.core.delivery import FINAL, TRANSITIONS
from tidegate_server.metrics import Metrics
from tidegate_server.ops.exposition import MetricsCollector
from tidegate_server.store.base import Stats

LUA = ROOT / "server" / "tidegate_server" / "store" / "lua"


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", documents(), ids=name)
def test_every_relative_link_leads_somewhere(document: Path):
    text = re.sub(r"(?s)```.*?```", "", document.read_text())
    targets = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    broken = [
        path + hash_ + anchor
        for path, hash_, anchor in targets
        if "://" not in path and not _leads(document, path, anchor)
    ]
    assert broken == []


def _leads(document: Path, path: str, anchor: str) -> bool:
    target = document.parent / path if path else document
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text())
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("language", "folder"), [("python", "examples/python"), ("js", "examples/node")]
)
def test_the_readme_shows_the_examples_as_they_are(language: str, folder: str):
    shown = re.findall(rf"(?s)```{language}\n(.*?)```", (ROOT / "README.md").read_text())
    examples = "\n".join(path.read_text() for path in (ROOT / folder).glob("*.*"))
    assert shown
    assert [block for block in shown if block not in examples] == []


def test_the_settings_are_those_of_the_server():
    defaults = {variable: value for variable, value, _ in Settings().describe()}
    told = {row[0]: row[1:4] for row in table("docs/settings.md", "variable")}
    assert told == {
        env_name(key): [key, defaults[env_name(key)], allowed(env_name(key))] for key in KEYS
    }


def allowed(variable: str) -> str:
    """What the server says when the value is wrong. What takes anything is text."""
    store = {"TIDEGATE_STORE_URL": "rediss://store"}
    for wrong in ("?", "\0", "-1"):
        try:
            load_settings(environ=store | {variable: wrong})
        except ConfigError as error:
            (rule,) = re.findall(f"(?m)^{variable} is .*?; it must be (.*)$", str(error))
            return rule.partition(", such as")[0]
    return "text"


def test_the_keys_of_an_endpoint_are_those_of_the_server(tmp_path: Path):
    told = {row[0]: row[1:3] for row in table("docs/settings.md", "key of push")}
    assert told == {
        key: [
            "none" if field.is_required() else show(field.default),
            _allowed_of_push(key, tmp_path / "tidegate.toml"),
        ]
        for key, field in Push.model_fields.items()
    }


def _allowed_of_push(key: str, file: Path) -> str:
    wrong = "/nowhere" if key.endswith("_file") else "\\u0000"
    keys = {"url": '"https://bot.example/"', key: f'"{wrong}"'}
    lines = [f"{name} = {value}" for name, value in keys.items()]
    file.write_text("\n".join(['[instances."a".push]', *lines]))
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={}, config_file=file)
    (rule,) = re.findall(r"; it must be (.*)", str(caught.value))
    return rule.partition(", such as")[0]


def test_the_original_names_are_those_of_the_server():
    told = {row[0]: row[1] for row in table("docs/settings.md", "original name")}
    assert told == {alias: key for alias, (key, _) in ALIASES.items()}


def test_the_reasons_are_those_of_the_contract():
    told = [row[0] for row in table("docs/errors.md", "reason")]
    reasons = [
        reason.removeprefix("ERROR_REASON_")
        for reason in types_pb2.ErrorReason.DESCRIPTOR.values_by_name
    ]
    assert told == reasons[1:]


def test_the_codes_are_those_of_the_contract():
    proto = (ROOT / "proto/tidegate/v1/types.proto").read_text()
    for reason, code, *_ in table("docs/errors.md", "reason"):
        comment = proto.partition(f"ERROR_REASON_{reason} =")[0].rpartition(";")[2]
        assert code in comment, reason


def test_the_metrics_are_those_of_the_server():
    told = {row[0]: row[1:] for row in table("docs/operations.md", "metric")}
    assert told == {
        family.name + ("_total" if family.type == "counter" else ""): [
            family.type,
            family.documentation,
        ]
        for family in MetricsCollector(Metrics(), Stats()).collect()
    }


def test_the_diagram_of_a_batch_is_the_table_of_its_transitions():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = re.findall(r"(?m)^    (\S+) --> (\S+?)(?:: (.*))?$", text)
    steps = {
        (before.name if before else "[*]", after.name, event)
        for (before, event), after in TRANSITIONS.items()
    }
    assert set(drawn) == steps | {(state.name, "[*]", "") for state in FINAL}


def test_the_invariants_are_complete():
    invariants = [row[0] for row in table("ARCHITECTURE.md", "no.")]
    assert invariants == [f"I{number}" for number in range(1, 18)]


def test_every_script_and_prelude_is_in_the_table():
    document = name(LUA / "README.md")
    rows = table(document, "script") + table(document, "prelude")
    assert {re.sub(r"\[(.*)\].*", r"\1", row[0]) for row in rows} == {
        path.stem for path in LUA.glob("*.lua")
    }


def test_every_decision_is_listed():
    listed = re.findall(r"\]\((\d.*?)\)", (ROOT / "docs/adr/README.md").read_text())
    there = sorted(path.name for path in (ROOT / "docs" / "adr").glob("0*.md"))
    assert listed == there
