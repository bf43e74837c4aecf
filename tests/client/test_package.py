import logging
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

import tidegate
from tidegate import __main__ as command

ROOT = Path(__file__).parents[2]


def python(code: str) -> str:
    path = f"import sys; sys.path[:0] = [{str(ROOT / 'client')!r}, {str(ROOT / 'server')!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", path + code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_all_names_exactly_the_public_names():
    public = {
        name
        for name, value in vars(tidegate).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public | {"__version__"} == set(tidegate.__all__)


@pytest.mark.parametrize(
    "module", ["errors", "models", "client", "batch", "subscription", "blocking"]
)
def test_each_module_has_what_it_promises(module: str):
    loaded = import_module(f"tidegate.{module}")
    assert all(hasattr(loaded, name) for name in loaded.__all__)


@pytest.mark.parametrize("name", sorted(set(tidegate.__all__) - {"__version__"}))
def test_everything_public_is_documented(name: str):
    thing = getattr(tidegate, name)
    members = [v for k, v in vars(thing).items() if callable(v) and not k.startswith("_")]
    assert thing.__doc__
    assert all(member.__doc__ for member in members)


def test_the_version_is_a_text():
    assert re.match(r"\d", tidegate.__version__)


def test_importing_the_client_brings_neither_the_server_nor_its_libraries():
    code = "import tidegate, tidegate.blocking\nprint(*sys.modules)"
    loaded = set(python(code).split())
    assert "tidegate.client" in loaded
    assert not {"redis", "aiohttp", "google.rpc", "grpc_status", "tidegate_server"} & loaded


def test_error_details_do_not_clash_with_googleapis():
    code = """
import tidegate._status as ours
from google.rpc import status_pb2, error_details_pb2
from google.protobuf.any_pb2 import Any
info = Any(); info.Pack(error_details_pb2.ErrorInfo(reason="LEASE_LOST", domain="tidegate"))
print(ours.read(status_pb2.Status(details=[info]).SerializeToString()).reason)
"""
    assert python(code) == "LEASE_LOST"


def test_the_logger_is_left_as_it_was():
    assert not logging.getLogger("tidegate").handlers


def test_the_extra_of_the_command_is_the_extra_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {
        re.split(r"[<>=;\[ ]", requirement)[0]
        for requirement in project["optional-dependencies"]["server"]
    }
    imported = {
        module: {name.replace("_", "-") for name in distributions}
        for module, distributions in packages_distributions().items()
    }
    missing = {
        name
        for name in required
        if not any(name in of and command.belongs_to_extra(m) for m, of in imported.items())
    }
    assert missing <= {"googleapis-common-protos"}  # imported as google.rpc
    assert command.belongs_to_extra("google.rpc")


@pytest.mark.parametrize("missing", ["redis", "google.rpc.code_pb2", "tidegate_server"])
def test_without_the_extra_the_command_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail() -> None:
        raise ModuleNotFoundError(name=missing)

    _command_is(monkeypatch, fail)
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "pip install 'tidegate[server]'" in said
    assert f"{missing} is missing" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("missing", ["tidegate_server.cli.serve", "json5", "rediscover"])
def test_a_bug_in_the_command_is_not_hidden(missing: str, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise ModuleNotFoundError(name=missing)

    _command_is(monkeypatch, fail)
    with pytest.raises(ModuleNotFoundError):
        command.main()


def _command_is(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    stand_in = ModuleType("tidegate_server.cli")
    stand_in.main = run  # pyright: ignore[reportAttributeAccessIssue] - a module made for the test
    monkeypatch.setitem(sys.modules, "tidegate_server.cli", stand_in)
