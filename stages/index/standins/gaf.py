"""Draws group scenes in the layout of GAF: see `stages.index.datasets.gaf`.

What decides a scene's label is in `stages.index.drawn.rules`: who smiles, and in three of four scenes which of them
counts. Each part is balanced: of any three photos in a row each has another class, of any twelve each another cell.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from stages.index.drawn.scenes import draw_scene
from stages.index.standins._folder import JPEG_QUALITY, fresh
from stages.progress import progress
from stages.settings import Settings

_CELLS = 12  # of scenes, in the order of `scene_cell`: four subsets of each of three labels


class Sizes(Settings):
    """How many photos Train, Validation and Test have. Test is left out where it has none."""

    train: int = Field(240, ge=3)
    val: int = Field(120, ge=3)
    test: int = Field(24, ge=0)


def write(folder: Path, sizes: Sizes, seed: int) -> None:
    """Draw the data set into a folder that is empty or not there; 0.06 s a photo.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    parts = {"Train": sizes.train, "Validation": sizes.val, "Test": sizes.test}
    first, jobs = 0, []
    for part, count in parts.items():
        jobs += [(part, number, first + _index(number)) for number in range(count)]
        first += -(-count // _CELLS) * _CELLS
    with fresh(folder):
        for part, number, index in progress(jobs, total=len(jobs), desc="scenes", unit="scene"):
            scene = draw_scene(seed, index)
            label = scene.plan.cell.label
            name = f"test_{number + 1}.jpg" if part == "Test" else f"{label.capitalize()}/{label[:3]}_{number + 1}.jpg"
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            scene.image.save(path, format="JPEG", quality=JPEG_QUALITY)


def _index(number: int) -> int:
    """The scene of a part's photo `number`: labels in turn, then subsets."""
    block, cell = divmod(number, _CELLS)
    return block * _CELLS + 4 * (cell % 3) + cell // 3
