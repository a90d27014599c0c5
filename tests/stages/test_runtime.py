"""OpenVINO: in the precision that is asked for, and silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages import engines

pytest.importorskip("openvino")

from stages.runtime import compiled, graph, openvino, ops


def _product(rng: np.random.Generator) -> tuple[openvino.Model, np.ndarray]:
    """A graph that multiplies by a matrix, and the matrix."""
    matrix = rng.normal(size=(256, 64)).astype(np.float32)
    values = ops.parameter([32, 256], np.float32)
    return graph([ops.matmul(values, ops.constant(matrix), False, False)], [values]), matrix


def test_float32_is_float32_on_every_processor() -> None:
    rng = np.random.default_rng(0)
    model, matrix = _product(rng)
    values = rng.normal(size=(32, 256)).astype(np.float32)
    exact = values.astype(np.float64) @ matrix
    [found] = compiled(model)(values)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
    if engines.processor() & {"avx512_bf16", "amx_bf16"}:
        [rounded] = compiled(model, "bfloat16")(values)
        assert rounded.dtype == np.float32
        assert 1e-4 < np.abs(rounded - exact).max() / np.abs(exact).max() < 1e-1


def test_outputs_stay_and_read_only_inputs_are_taken() -> None:
    rng = np.random.default_rng(1)
    model, _ = _product(rng)
    run = compiled(model)
    one, other = (rng.normal(size=(32, 256)).astype(np.float32) for _ in range(2))
    one.flags.writeable = False
    [first] = run(one)
    kept = first.copy()
    [second] = run(other)
    assert not np.array_equal(second, kept)
    assert np.array_equal(first, kept)
    [strided] = run(np.repeat(one, 2, axis=1)[:, ::2])
    assert np.array_equal(strided, kept)


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """OpenVINO's package for that keeps a number for the user in the home folder as soon as it is imported."""
    code = "import sys, stages.runtime; print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr
    assert list(tmp_path.iterdir()) == []
