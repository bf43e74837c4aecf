"""What would be published, built as it would be."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.repository.paths import GENERATED, ROOT

LUA = ROOT / "server" / "tidegate_server" / "store" / "lua"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def bare(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and with nothing but what the client needs."""
    folder = tmp_path_factory.mktemp("bare")
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    site = Path(sysconfig.get_path("platlib"))
    (folder / "google").mkdir()
    for needed in ("grpc", "google/protobuf", "google/_upb", "typing_extensions.py"):
        (folder / needed).symlink_to(site / needed)
    return folder


def run(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    """Run code without any other package."""
    path = f"import sys; sys.path[:0] = [{str(folder)!r}]\n"
    return subprocess.run(
        [sys.executable, "-IS", "-c", path + code], capture_output=True, text=True
    )


def needed() -> set[str]:
    """Files that are easily left out, by their path in site-packages."""
    return {
        "tidegate/py.typed",
        "tidegate_server/py.typed",
        *(f"tidegate_server/store/lua/{path.name}" for path in LUA.glob("*.lua")),
        *(f"tidegate/v1/{path.name}" for path in GENERATED.glob("*.py*")),
    }


def test_the_wheel_has_scripts_types_and_generated_code_and_no_other_package(built: Path):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert needed() <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "tidegate",
        "tidegate_server",
    }


def test_the_source_has_what_the_wheel_has_and_the_protos(built: Path):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    roots = {"tidegate": "client", "tidegate_server": "server"}
    assert {f"{roots[name.split('/')[0]]}/{name}" for name in needed()} <= names
    assert {"proto/tidegate/v1/types.proto", "README.md", "LICENSE"} <= names


def test_the_client_needs_nothing_of_the_server(bare: Path):
    done = run(bare, "import tidegate, tidegate.blocking; print(tidegate.__version__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_server_without_its_extra_says_what_to_install(bare: Path):
    done = run(bare, "sys.argv = ['tidegate', 'serve']; import tidegate.__main__ as m; m.main()")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'tidegate[server]'" in done.stderr
