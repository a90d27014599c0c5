from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import second_run

ROOT = Path(__file__).parent.parent.parent


def test_the_benchmark_prints_its_differences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On few items: that nothing is computed, which it checks itself; not how long it takes."""
    monkeypatch.setattr("sys.argv", ["second_run", "--items", "40", "--rounds", "1"])
    monkeypatch.setenv("KULESHOV_STORE", os.environ["KULESHOV_STORE"])  # it sets it, and this puts it back
    second_run.main()
    said = capsys.readouterr().out
    found = re.findall(r"^difference: (\w+) -?\d+\.\d\d s wall, -?\d+\.\d\d s CPU$", said, re.MULTILINE)
    assert found == list(second_run.ROLES)


def test_a_second_run_loads_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
    second_run.build(tmp_path / "project", 40)
    program = (
        "import sys; from pipeline.cli import main_group;"
        f"main_group.main(['-C', {str(tmp_path / 'project')!r}, 'extract'], standalone_mode=False);"
        "print(sorted({'torch', 'torchvision', 'facenet_pytorch', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert "40 photos, 0 computed, 40 from the store" in done.stdout
    assert "36 face groups, 0 computed, 36 from the store" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
