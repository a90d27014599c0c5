"""Detections in columns: the same faces as objects, for every source of faces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cache.keys import item_key
from stages.detect.detections import Detections, ItemColumns, key_list
from stages.detect.faces import FaceItem, Faces, faces_of
from stages.detect.run import read
from stages.detect.settings import DetectSettings, FaceSource
from stages.index.manifest import Box, Manifest, Sample

ENDS_IN_NUL = b"\1" * 14 + b"\0\0"


def faces(count: int, start: float = 0, size: tuple[int, int] = (100, 50)) -> Faces:
    rows = start + np.arange(count * 15, dtype=np.float32).reshape(count, 15)
    return Faces.from_rows(rows, size)


def sample(name: str) -> Sample:
    return Sample(name, name, "image", (), "train", "", "", (), "ab" * 32)


ITEMS = {
    "a": [FaceItem(ENDS_IN_NUL, faces(2))],
    "b": [FaceItem(b"2" * 16, faces(0, size=(7, 8)))],
    "c": [],
    "d": [FaceItem(b"3" * 16, faces(1, 100)), FaceItem(b"4" * 16, faces(3, 200))],
}
PLAIN = Detections(ITEMS, {"a": (100, 50), "b": (7, 8), "c": (1, 2), "d": (100, 50)}, {"bad": ("x", "y")}, "key")


def as_bytes(items: Any) -> list[tuple[bytes, bytes, tuple[int, int]]]:
    return [(item.key, item.faces.to_rows().tobytes(), item.faces.size) for item in items]


def test_columns_give_the_items_back() -> None:
    columns = ItemColumns.of(ITEMS)
    assert list(columns) == list(ITEMS)
    assert len(columns) == 4
    assert "c" in columns
    assert "bad" not in columns
    for name, items in ITEMS.items():
        assert as_bytes(columns[name]) == as_bytes(items)
    with pytest.raises(KeyError):
        columns["bad"]


@pytest.mark.parametrize("detections", [PLAIN, replace(PLAIN, items=ItemColumns.of(ITEMS))])
def test_picked_items_are_those_with_a_face(detections: Detections) -> None:
    picked = detections.pick([sample(name) for name in "dcba"])
    assert key_list(picked.keys) == [b"3" * 16, b"4" * 16, ENDS_IN_NUL]
    assert picked.owner.tolist() == [0, 0, 3]
    assert picked.counts.tolist() == [1, 3, 2]
    expected = np.concatenate([item.faces.boxes for name in "da" for item in ITEMS[name]])
    assert np.array_equal(picked.boxes, expected)
    assert detections.sizes_of([sample("b"), sample("a")]).tolist() == [[7, 8], [100, 50]]
    assert [s.sample_id for s in detections.readable([sample("bad"), sample("c")])] == ["c"]
    empty = detections.pick([])
    assert (len(empty.keys), empty.boxes.shape, detections.sizes_of([]).shape) == (0, (0, 4), (0, 2))
    with pytest.raises(KeyError):
        detections.pick([sample("bad")])


@pytest.mark.parametrize("source", ["found", "given", "whole"])
def test_what_is_read_is_what_the_faces_of_each_sample_are(
    detected: Any, settings: DetectSettings, source: FaceSource
) -> None:
    """One photo under two names, one with other boxes; one photo without a face."""
    boxes = (Box(1, 2, 60, 70, "face"), Box(0, 0, 9, 9, "person"), Box(30, 5, 90.5, 80, "face"))
    twin = replace(detected.manifest.by_id["scene1.png"], sample_id="twin", boxes=boxes)
    manifest = Manifest((*detected.manifest.samples, twin))
    found = read(manifest, detected.store, settings)
    detections = read(manifest, detected.store, settings.model_copy(update={"faces": source}))
    assert list(detections.items) == [s.sample_id for s in manifest]
    assert detections.sizes == found.sizes
    for one in manifest:
        [item] = found.items[one.sample_id]
        assert item.key == item_key(one.content, region="faces")
        assert as_bytes(detections.items[one.sample_id]) == as_bytes(faces_of(one, item.faces, source))
        assert detections.faces(one.sample_id).size == found.sizes[one.sample_id]
