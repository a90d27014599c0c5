"""What heads share: features that are no numbers are found wherever they are, and a head must have something to see."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.keys import FACES, item_key
from stages.errors import DataError
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.train.features import Features
from stages.train.inputs import InputRows, Level
from stages.train.prepared import not_finite
from stages.train.run import run
from stages.train.settings import TrainSettings


def features_of(rows: dict[str, np.ndarray], counts: Sequence[int], views: int = 1) -> Features:
    """Samples of so many frames each, and no face."""
    samples = tuple(Sample(str(i), "x", "image", (), "train", "", "", (), "0" * 64) for i in range(len(counts)))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    places = np.zeros((offsets[-1], 2), np.int64)
    return Features(
        samples=samples,
        faces=np.zeros((0, 0), np.float32),
        offsets=np.zeros(len(counts) + 1, np.int64),
        face_index=np.zeros(0, np.int64),
        places=np.zeros((0, 2), np.int64),
        boxes=np.zeros((0, 4), np.float32),
        global_=np.zeros((views * len(counts), 0), np.float32),
        views=views,
        inputs={name: InputRows("frame", one) for name, one in rows.items()},
        levels={"frame": Level(offsets, places)},
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_no_number_is_found_in_any_view(value: float) -> None:
    maps = np.zeros((2 * 6, 2, 3, 3), np.float32)
    found = features_of({"map": maps, "pixels": np.zeros((12, 4, 4, 3), np.uint8)}, [2, 0, 3, 1], views=2)
    assert not len(not_finite(found))
    maps[1, 1, 2, 0] = value  # sample 0
    maps[6 + 4, 0, 0, 0] = value  # sample 2, in the other view
    assert not_finite(found).tolist() == [0, 2]


def test_large_maps_are_looked_at_a_few_at_a_time() -> None:
    maps = np.zeros((400, 64, 20, 20), np.float32)  # 41 MB
    maps[399, 0, 0, 0] = np.nan
    found = features_of({"map": maps}, [4] * 100)
    tracemalloc.start()
    try:
        assert not_finite(found).tolist() == [99]
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def settings_of(kind: str, **blocks: Any) -> TrainSettings:
    head = {"kind": kind, "epochs": 1, "batch_size": 8, **blocks}
    return TrainSettings.model_validate({"seeds": [0], "heads": {"h": head}})


def test_a_map_that_is_no_number_goes_to_the_ledger(populated: Any, tmp_path: Path) -> None:
    of = item_key(populated.samples[5].content, region=FACES)
    for spec, key, rows in populated.waiting:
        if key == of and spec.tap == "grid":
            rows[0, 1, 2, 3] = np.inf
    ledger = Ledger("train")
    run(
        populated.inputs(),
        settings_of("aminbeidokhti2019:attention", inputs={"frames": ["resnet29/grid"]}),
        tmp_path,
        ledger,
    )
    assert {name: code for name, (code, _) in ledger.entries.items()} == {"s05": "no_number"}


def test_a_head_of_frames_where_no_training_sample_has_one(world: Any, tmp_path: Path) -> None:
    for i in range(8):
        world.add(f"s{i}", ("calm", "glad")[i % 2], count=0)
    world.add("t", "calm", "test", count=2)
    asked = settings_of("aminbeidokhti2019:temporal", inputs={"frames": ["resnet29/embedding"]})
    (tmp_path / "predictions" / "heads").mkdir(parents=True)
    (tmp_path / "predictions" / "heads" / "old.csv").touch()
    with pytest.raises(
        DataError, match=r"training split has no frame with a face, and aminbeidokhti2019:temporal reads"
    ):
        run(world.inputs(), asked, tmp_path, Ledger("train"))
    assert (tmp_path / "predictions" / "heads" / "old.csv").exists()


def test_one_training_sample_with_a_frame_is_enough(world: Any, tmp_path: Path) -> None:
    for i in range(8):
        world.add(f"s{i}", ("calm", "glad")[i % 2], count=int(i == 3))
    asked = settings_of("aminbeidokhti2019:temporal", inputs={"frames": ["resnet29/embedding"]})
    assert len(run(world.inputs(), asked, tmp_path, Ledger("train"))) == 1


def test_all_are_no_numbers(populated: Any, tmp_path: Path) -> None:
    for _, _, rows in populated.waiting:
        rows[:] = np.nan
    populated.samples[:] = [replace(s, split="train") for s in populated.samples if populated.items[s.sample_id]]
    asked = settings_of("tan2017:global", **{"global": ["effnet_lite0/pooled"]})
    with pytest.raises(DataError, match=r"every sample has a feature that is NaN or infinite, first s00"):
        run(populated.inputs(), asked, tmp_path, Ledger("train"))
