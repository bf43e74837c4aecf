import subprocess
import sysconfig
from pathlib import Path

from tests.repository.paths import ROOT


def test_every_part_imports_only_what_it_may():
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
