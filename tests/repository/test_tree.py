"""The files of the project, looked at as they are."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.repository.paths import ROOT, tracked
from tidegate.v1 import admin_service_pb2, buffer_service_pb2, delivery_service_pb2

# Put together here, so that this file has none of them.
FOREIGN = re.compile(
    "|".join(
        [
            r"(?<![\w.~/-])/(?:work|root|Users)/",
            r"registry\.npm" + r"js",
            r"pypi\.org" + r"/simple",
            r"(?:extra-)?index" + r"-url",
        ]
    )
)


def test_no_file_names_a_place_of_one_machine_or_a_registry():
    found = [
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for path in tracked()
        if path.suffix not in {".binpb"} and path != Path(__file__)
        for hit in FOREIGN.finditer(path.read_text())
    ]
    assert found == []


def test_the_newest_entry_of_the_changelog_is_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"(?m)^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text())
    assert newest
    assert newest[1] == version


def test_the_service_config_names_only_calls_of_the_contract():
    config = json.loads((ROOT / "proto/tidegate/v1/service_config.json").read_text())
    named = {
        (name["service"], name["method"]) for one in config["methodConfig"] for name in one["name"]
    }
    modules = (admin_service_pb2, buffer_service_pb2, delivery_service_pb2)
    there = {
        (service.full_name, method.name)
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert named
    assert named <= there


def test_each_constraint_is_one_exact_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []


@pytest.mark.parametrize("extra", ["server", "dev"])
def test_every_requirement_of_an_extra_has_its_constraint(extra: str):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        re.split(r"[<>=;\[ ]", requirement)[0]
        for requirement in [*project["dependencies"], *project["optional-dependencies"][extra]]
    }
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {n.replace("_", "-") for n in named} - {p.replace("_", "-") for p in pinned} == {
        *({"tidegate"} if extra == "dev" else ())
    }
