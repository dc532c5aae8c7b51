"""The Makefile: which PyTorch it installs. A Python of a few lines answers for pip, and notes what it was asked."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = """#!/bin/sh
echo "$@" >> asked
case "$*" in
*"pip show torch"*) test -z "$HAS" || echo "Version: $HAS" ;;
*--dry-run*) test -n "$INDEX" ;;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("cpu", "has", "index", "installs", "says"),
    [
        ("1", "", "yes", True, "saves about 4 GB"),
        ("1", "2.0.0+cpu", "yes", True, "saves about 4 GB"),
        ("1", "", "", False, "PIP_EXTRA_INDEX_URL="),
        ("1", "2.0.0+cu132", "yes", False, ""),  # what is there stays
        ("1", "2.0.0", "yes", False, ""),
        ("0", "", "yes", False, ""),
    ],
)
def test_torch_without_cuda(tmp_path: Path, cpu: str, has: str, index: str, installs: bool, says: str) -> None:
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / ".venv" / ".created").touch()
    done = subprocess.run(
        ["make", ".venv/.torch", f"CPU={cpu}"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HAS": has, "INDEX": index},
        capture_output=True,
        text=True,
        check=True,
    )
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    installed = [line for line in asked if "pip install" in line and "--dry-run" not in line]
    assert len(installed) == installs
    assert all("torch==" in line and line.count("+cpu") == 2 and "torchvision==" in line for line in installed)
    assert says in done.stdout and bool(says) == bool(done.stdout.strip()), done.stdout
    assert (tmp_path / ".venv" / ".torch").is_file()
