"""Fixtures: a small drawn data set, written once; plans of many scenes, which cost no pixels."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.index.drawn.dataset import DrawnSummary, draw_dataset
from stages.index.drawn.scenes import ScenePlan, plan_scene

Rows = list[dict[str, str]]


@pytest.fixture(scope="session")
def plans() -> list[ScenePlan]:
    """The plans of the first 480 scenes of seed 0 and the first 240 of seed 7."""
    return [plan_scene(0, index) for index in range(480)] + [plan_scene(7, index) for index in range(240)]


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], Rows]:
    """Reads a CSV file as a list of dicts."""

    def read(path: Path) -> Rows:
        with open(path, newline="", encoding="utf-8") as handle:
            return list(csv.DictReader(handle))

    return read


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DrawnSummary]:
    """A data set of 36 scenes, seed 3, and what `draw_dataset` said of it."""
    folder = tmp_path_factory.mktemp("drawn")
    return folder, draw_dataset(folder, scenes=36, seed=3)
