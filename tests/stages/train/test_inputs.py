"""Rows of frames: which face of a clip's frame is read, and that memory and store give the same bits."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.keys import FACES, PLAIN, BlockSpec, frame_key, item_key, view_key
from stages.detect.detections import Detections
from stages.detect.faces import FaceItem, Faces
from stages.errors import DataError, MissingInputError, SettingError
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.train.features import HELD_BYTES, Features, gather
from stages.train.inputs import Level
from stages.train.population.minibatch import Held, Streamed, source_of
from stages.train.rows import StoredRows
from stages.train.settings import FrameSettings

SIZE = (200, 100)
VECTOR = BlockSpec("net", "pooled", "face", (3,), 1, numerics={"dtype": "float16"})
OTHER = BlockSpec("net2", "pooled", "face", (2,), 1, numerics={"dtype": "float32"})
MAP = BlockSpec("net", "map", "face", (2, 2, 3), 1, numerics={"dtype": "float16"})
PIXELS = BlockSpec("box4", "pixels", "face", (4, 4, 3), 1, numerics={"dtype": "uint8"})
BLOCKS = (VECTOR, OTHER, MAP, PIXELS)
INPUTS = {"vectors": [VECTOR, OTHER], "maps": [MAP], "pixels": [PIXELS]}

WIDE, SMALL = 40, 20


def face(left: float, width: float) -> tuple[float, float, float, float]:
    return (left, 10, left + width, 10 + width)


A, B = face(10, SMALL), face(120, WIDE)
"""Two persons who stay where they are; B's face is the larger one."""

CLIP = [[A, B], [], [B, A], [A], [A], [B]]
"""Faces of each of six frames: A is in four of them, B in three."""


def rows_of(spec: BlockSpec, key: bytes, count: int) -> np.ndarray:
    """Any numbers, different for every block, item and face."""
    rng = np.random.default_rng([*key, *spec.tap.encode(), len(spec.shape)])
    rows = rng.normal(size=(count, *spec.shape)) * 50 + 100
    dtype = spec.numerics["dtype"]
    return (rows.clip(0, 255) if dtype == "uint8" else rows).astype(dtype)


class Reel:
    """Clips and photos with the faces of each frame, and what was stored of them."""

    def __init__(self, store: Any) -> None:
        self.store, self.samples = store, []
        self.items: dict[str, list[FaceItem]] = {}
        self.times: dict[str, np.ndarray] = {}
        self.stored: dict[tuple[str, int, int], dict[str, np.ndarray]] = {}
        self.waiting: list[tuple[BlockSpec, bytes, np.ndarray]] = []

    def add(
        self, name: str, frames: Sequence[Sequence[tuple[float, ...]]], views: Sequence[str] = (PLAIN,), lost: int = -1
    ) -> None:
        """A clip of these frames, or a photo of the only one; nothing is stored of frame `lost`."""
        photo = len(frames) == 1
        content = f"{len(self.samples):02x}" * 32
        sample = Sample(name, name, "image" if photo else "video", ("a",), "train", "", "", (), content)
        self.items[name] = []
        if not photo:
            self.times[name] = np.arange(len(frames)) * 100_000
        for number, boxes in enumerate(frames):
            key = item_key(content, region=FACES) if photo else frame_key(content, number * 100_000, region=FACES)
            corners = np.array(boxes, np.float32).reshape(-1, 4)
            points = np.full((len(boxes), 5, 2), np.nan, np.float32)
            self.items[name].append(FaceItem(key, Faces(corners, np.zeros(len(boxes), np.float32), points, SIZE)))
            for spec in BLOCKS if len(boxes) and number != lost else ():
                for view in views if spec is not PIXELS else (PLAIN,):
                    viewed = view_key(key, view)
                    rows = rows_of(spec, viewed, len(boxes))
                    self.waiting.append((spec, viewed, rows))
                    for place, row in enumerate(rows if view == PLAIN else ()):
                        self.stored.setdefault((name, number, place), {})[spec.name] = row
        self.samples.append(sample)

    @property
    def detections(self) -> Detections:
        sizes = {sample.sample_id: SIZE for sample in self.samples}
        return Detections(self.items, sizes, {}, "key", self.times)

    def write(self) -> None:
        """What was added, into the store: one shard a block, for speed."""
        for spec in {spec.key: spec for spec, _, _ in self.waiting}.values():
            with self.store.writer(spec) as writer:
                for wanted, key, rows in self.waiting:
                    if wanted is spec:
                        writer.add(key, rows)
        self.waiting.clear()

    def gather(
        self,
        inputs: dict[str, list[BlockSpec]] | None = None,
        held: int = HELD_BYTES,
        views: Sequence[str] = (PLAIN,),
        ledger: Ledger | None = None,
        **frames: int | None,
    ) -> Features:
        self.write()
        return gather(
            self.samples,
            self.store,
            self.detections,
            [],
            [],
            max_faces=1,
            ledger=Ledger("train") if ledger is None else ledger,
            views=views,
            held_bytes=held,
            inputs=INPUTS if inputs is None else inputs,
            frames=FrameSettings.model_validate(frames),
        )


@pytest.fixture
def reel(world: Any) -> Reel:
    """A clip, a photo of two faces, a photo and a clip without a face, and a clip of one person."""
    found = Reel(world.store)
    found.add("clip", CLIP)
    found.add("photo", [[A, B]])
    found.add("nobody", [[]])
    found.add("empty", [[], []])
    found.add("single", [[A], [A], [A], [A], [A]])
    return found


EXPECTED = {
    "clip": [(0, 0), (2, 1), (3, 0), (4, 0), (5, 0)],
    "photo": [(0, 1)],
    "nobody": [],
    "empty": [],
    "single": [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)],
}
"""Frame, and which of its faces: in the clip A, who is in the most frames, and B in the one where A is not; in a photo
the largest."""


def values(reel: Reel, name: str, places: Sequence[tuple[int, int]], *specs: BlockSpec) -> np.ndarray:
    rows = [[reel.stored[name, *place][spec.name] for spec in specs] for place in places]
    return np.array([np.concatenate(row, dtype=np.float32) if len(specs) > 1 else row[0] for row in rows])


@pytest.mark.parametrize("held", [0, HELD_BYTES], ids=["stored", "held"])
def test_one_face_of_each_frame_that_has_one(reel: Reel, held: int) -> None:
    features = reel.gather(held=held)
    level = features.levels["frame"]
    for i, places in enumerate(EXPECTED.values()):
        assert [tuple(place) for place in level.places[level.offsets[i] : level.offsets[i + 1]].tolist()] == places
    batch = features.batch(np.arange(5))
    assert batch.masks["frame"].sum(1).tolist() == [5, 1, 0, 0, 5]
    assert [(name, rows.dtype, tuple(rows.shape[2:])) for name, rows in batch.inputs.items()] == [
        ("vectors", torch.float32, (5,)),
        ("maps", torch.float32, (2, 2, 3)),
        ("pixels", torch.uint8, (4, 4, 3)),
    ]
    for i, (name, places) in enumerate(EXPECTED.items()):
        for wanted, specs in INPUTS.items():
            rows = batch.inputs[wanted][i]
            assert not rows[len(places) :].any()
            if places:
                assert np.array_equal(rows[: len(places)].numpy(), values(reel, name, places, *specs))


def test_who_begins_first_of_two_who_are_there_as_long(world: Any) -> None:
    reel = Reel(world.store)
    reel.add("even", [[B], [A, B], [A]])
    reel.add("equal", [[A, face(120, SMALL)]])
    level = reel.gather({"vectors": [VECTOR]}).levels["frame"]
    assert level.places.tolist() == [[0, 0], [1, 1], [2, 0], [0, 0]]  # B, B, and A where B is not; the first of equals


def test_memory_and_store_give_the_same_bits(reel: Reel) -> None:
    held, stored = reel.gather(train=2, answer=3), reel.gather(held=0, train=2, answer=3)
    assert isinstance(source_of(held), Held)
    assert isinstance(source_of(stored), Streamed)
    assert all(isinstance(one.rows, StoredRows) for one in stored.inputs.values())
    scales = held.input_scales(np.array([0, 1, 4]))
    assert scales.keys() == {"vectors"}
    of_store = stored.input_scales(np.array([0, 1, 4]))["vectors"]
    assert [part.tobytes() for part in of_store] == [part.tobytes() for part in scales["vectors"]]
    none = np.zeros(0, np.float32), np.ones(0, np.float32)
    both = [one.scaled(none, none, scales) for one in (held, stored)]
    frames = np.array([[0, 3], [0, -1], [-1, -1], [-1, -1], [1, 4]])
    for a, b in ((held, stored), both):
        for rows, chosen in ((np.arange(5), None), (np.arange(5), frames), (np.array([4, 0, 4]), None)):
            parts, others = (one.batch(rows, None, chosen).parts() for one in (a, b))
            assert parts.keys() == others.keys()
            assert all(torch.equal(parts[name], others[name]) for name in parts)
        samples, chosen = np.array([[0, 4], [1, 0]]), frames[[[0, 4], [1, 0]]]
        one, other = (source_of(each).padded(samples, None, chosen).parts() for each in (a, b))
        assert all(torch.equal(one[name], other[name]) for name in one)
        alone = a.batch(samples[1], None, chosen[1])
        assert torch.equal(one["inputs.maps"][1, :, : alone.inputs["maps"].shape[1]], alone.inputs["maps"])
    real = both[0].batch(np.array([0, 1, 4])).parts()
    rows = real["inputs.vectors"][real["masks.frame"]].numpy()
    whole = reel.gather().batch(np.array([0, 1, 4])).inputs
    everything = np.concatenate([values(reel, n, EXPECTED[n], VECTOR, OTHER) for n in ("clip", "photo", "single")])
    np.testing.assert_allclose(scales["vectors"][0], everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(rows[0] * scales["vectors"][1] + scales["vectors"][0], whole["vectors"][0, 0], rtol=1e-4)


def test_frames_that_answer_are_evenly_spread(reel: Reel) -> None:
    features = reel.gather({"vectors": [VECTOR]}, answer=2)
    batch = features.batch(np.arange(5))
    assert batch.masks["frame"].sum(1).tolist() == [2, 1, 0, 0, 2]
    middles = [EXPECTED["single"][1], EXPECTED["single"][3]]  # of the parts 0 to 2.5 and 2.5 to 5
    assert np.array_equal(batch.inputs["vectors"][4].numpy(), values(reel, "single", middles, VECTOR))


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=5), answer=st.integers(1, 9))
def test_spread_frames_are_in_order_each_once_and_reach_both_ends(counts: list[int], answer: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    level = Level(offsets, np.zeros((offsets[-1], 2), np.int64), None, answer)
    samples = np.arange(len(counts))
    for choice, count in zip(level.answering(samples), counts, strict=True):
        real = choice[choice >= 0]
        assert len(real) == min(count, answer)
        assert (np.diff(real) > 0).all()
        assert (choice[len(real) :] == -1).all()
        if count > answer:
            part = count / answer
            assert (np.abs(real + 0.5 - (np.arange(answer) + 0.5) * part) <= 0.5).all()
    index, mask = level.take(samples, level.every(samples))
    assert np.array_equal(index[mask], np.arange(offsets[-1]))
    assert level.widest(training=True) == max(*counts, 1)
    assert level.widest(training=False) == max(min(max(counts), answer), 1)


def test_views_have_rows_of_their_own(world: Any) -> None:
    reel, views = Reel(world.store), (PLAIN, "flip")
    reel.add("clip", CLIP, views)
    reel.add("photo", [[A, B]], views)
    for held in (0, HELD_BYTES):
        features = reel.gather({"maps": [MAP]}, held, views)
        assert len(features.inputs["maps"].rows) == 2 * 6
        plain, flipped = (features.batch(np.arange(2), np.array([v, v])).inputs["maps"] for v in (0, 1))
        assert torch.equal(plain, features.batch(np.arange(2)).inputs["maps"])
        key = view_key(reel.items["photo"][0].key, "flip")
        assert np.array_equal(flipped[1, 0].numpy(), rows_of(MAP, key, 2)[1].astype(np.float32))
        mixed = source_of(features).padded(np.array([[1, 1]]), np.array([[0, 1]])).inputs["maps"]
        assert torch.equal(mixed[0, :, 0], torch.stack([plain[1, 0], flipped[1, 0]]))


def test_the_limit_counts_inputs(reel: Reel) -> None:
    size = 11 * (5 * 4 + 12 * 4 + 48)
    assert isinstance(reel.gather(held=size).inputs["maps"].rows, np.ndarray)
    assert isinstance(reel.gather(held=size - 1).inputs["maps"].rows, StoredRows)


def test_what_streams_takes_the_memory_of_a_batch(world: Any) -> None:
    """Of 60 clips' 12 MB of maps, minibatches of four samples need less than a tenth."""
    spec = replace(MAP, shape=(64, 8, 8), tap="large")
    reel = Reel(world.store)
    for i in range(60):
        reel.add(f"clip{i:02d}", [[A]] * 12)
    reel.waiting.clear()
    with world.store.writer(spec) as writer:
        for items in reel.items.values():
            for item in items:
                writer.add(item.key, np.full((1, *spec.shape), 3, np.float16))
    features = reel.gather({"maps": [spec]}, held=0, train=2)
    assert features.inputs["maps"].rows.nbytes == 720 * 64 * 64 * 4
    source = source_of(features)
    tracemalloc.start()
    try:
        for start in range(0, 60, 4):
            batch = source.padded(np.arange(start, start + 4)[None], None, np.array([[[0, 7]] * 4]))
            assert batch.inputs["maps"].sum().item() == 3 * 4 * 2 * 64 * 64
        assert tracemalloc.get_traced_memory()[1] < 720 * 64 * 64 * 4 / 10
    finally:
        tracemalloc.stop()


def test_a_frame_that_is_not_extracted(reel: Reel) -> None:
    reel.add("cut", [[A], [A], [A]], lost=1)
    ledger = Ledger("train")
    features = reel.gather(ledger=ledger)
    assert [sample.sample_id for sample in features.samples] == list(EXPECTED)
    assert ledger.entries["cut"] == ("no_features", "net/pooled: missing; run kuleshov extract")


def test_nothing_was_extracted(world: Any) -> None:
    reel = Reel(world.store)
    reel.add("clip", CLIP)
    with pytest.raises(MissingInputError, match=r"^net/none: .*run kuleshov extract$"):
        reel.gather({"maps": [replace(MAP, tap="none")]})


def test_rows_of_another_detection(reel: Reel) -> None:
    spec = replace(VECTOR, tap="few")
    reel.write()
    with reel.store.writer(spec) as writer:
        for items in reel.items.values():
            for item in items:
                if len(item.faces):
                    writer.add(item.key, np.zeros((3, 3), np.float16))
    with pytest.raises(DataError, match=r"net/few: 3 rows for 2 of the detections"):
        reel.gather({"vectors": [spec]})


@pytest.mark.parametrize(
    ("blocks", "views", "said"),
    [
        ([MAP, VECTOR], (PLAIN,), r"inputs.x: net/map has rows of shape \(2, 2, 3\), which cannot be joined"),
        ([VECTOR, PIXELS], (PLAIN,), r"inputs.x: box4/pixels has rows of shape"),
        ([VECTOR, replace(OTHER, level="global")], (PLAIN,), r"are of levels face and global, which have other frames"),
        ([VECTOR, replace(OTHER, level="person")], (PLAIN,), r"inputs.x: net2/pooled has rows of level person"),
        (
            [replace(VECTOR, level="global", source="imported")],
            (PLAIN,),
            r"inputs.x: imported/pooled has rows of level",
        ),
        ([PIXELS], (PLAIN, "flip"), r"inputs.x: box4/pixels has no other view"),
    ],
)
def test_blocks_that_are_no_input(reel: Reel, blocks: list[BlockSpec], views: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        reel.gather({"x": blocks}, views=views)


def test_whole_frames(reel: Reel) -> None:
    """Each frame has a row, with or without a face; a photo is one frame."""
    spec = replace(VECTOR, level="global", source="scene")
    for sample in reel.samples:
        frames = len(reel.items[sample.sample_id])
        times = [None] if frames == 1 else [number * 100_000 for number in range(frames)]
        for number, time in enumerate(times):
            key = frame_key(sample.content, time)
            reel.waiting.append((spec, key, np.full((1, 3), 10 * reel.samples.index(sample) + number, np.float16)))
    features = reel.gather({"frames": [spec]})
    assert [sample.sample_id for sample in features.samples] == list(EXPECTED)
    batch = features.batch(np.arange(5))
    assert batch.masks["frame"].sum(1).tolist() == [6, 1, 1, 2, 5]
    assert batch.inputs["frames"][0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.inputs["frames"][4, :5, 1].tolist() == [40, 41, 42, 43, 44]
    assert features.levels["frame"].places[:3].tolist() == [[0, 0], [1, 0], [2, 0]]


def test_imported_frames(reel: Reel) -> None:
    """One item a sample, with the rows of all of its frames, whatever the detector looked at."""
    spec = replace(VECTOR, level="frame", source="imported", tap="voice")
    for number, sample in enumerate(reel.samples[:3]):
        rows = np.arange(3 * (number + 1)).reshape(-1, 3).astype(np.float16)
        reel.waiting.append((spec, item_key(sample.content), rows))
    ledger = Ledger("train")
    features = reel.gather({"frames": [spec]}, ledger=ledger, answer=2)
    assert [sample.sample_id for sample in features.samples] == ["clip", "photo", "nobody"]
    assert ledger.entries["single"][0] == "no_features"
    batch = features.batch(np.arange(3))
    assert batch.masks["frame"].sum(1).tolist() == [1, 2, 2]
    assert batch.inputs["frames"][2].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert features.levels["frame"].places[-3:].tolist() == [[0, 0], [1, 0], [2, 0]]


def test_without_inputs_there_are_no_levels(reel: Reel) -> None:
    reel.write()
    features = gather(reel.samples, reel.store, reel.detections, [VECTOR], [], max_faces=3, ledger=Ledger("train"))
    assert not features.levels
    assert not features.batch(np.arange(2)).masks
