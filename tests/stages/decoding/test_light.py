"""What decoding processes are asked to do must not bring torch, or the store, into each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("stages.decoding.worker", {"torch", "h5py", "numpy", "PIL", "av"}),
        ("stages.decoding.pool", {"torch", "h5py", "PIL", "av"}),
        ("stages.align.cut", {"torch", "h5py"}),
        ("stages.detect.looking", {"torch"}),
        ("stages.extract.pictures", {"torch", "h5py"}),
    ],
)
def test_little_is_imported(module: str, without: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in found
    assert without.isdisjoint(found)
