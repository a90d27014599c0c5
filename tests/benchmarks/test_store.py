from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NAMES = ["load_all", "load_all_checked", "minibatch", "minibatch_vs_groups", "write"]


def test_the_benchmark_prints_its_ratios() -> None:
    """On few items: that it runs and compares equal rows, which it asserts itself; not how fast it is."""
    command = [sys.executable, "-m", "benchmarks.store", "--items", "200", "--rounds", "1", "--batches", "20"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found = re.findall(r"^ratio: (\w+) (\d+\.\d\d)$", done.stdout, re.MULTILINE)
    assert [name for name, _ in found] == NAMES
    assert all(float(ratio) > 0 for _, ratio in found)
