"""Features of an item are the same alone, in any batch, in any order, beside any broken items, with real networks."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cache.keys import FACES, item_key
from cache.store import Store
from stages.backbones.fetching import fetch
from stages.detect.faces import FaceItem, Faces
from stages.detect.run import Detections
from stages.extract import run as stage
from stages.extract.plan import RolePlan, plan_role
from stages.extract.settings import BackboneSettings, ExtractSettings
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger

KEY = "0" * 64
SETTINGS = ExtractSettings(
    backbones={
        "expression": BackboneSettings(backbone="mini_xception", taps=("feature",)),
        "scene": BackboneSettings(backbone="effnet_lite0", taps=("pooled",)),
    },
    device="cpu",
    dtype="float32",
    views={"flip": True},  # pyright: ignore[reportArgumentType]
)
GOOD = {"a": 2, "b": 1, "c": 5, "d": 1}
"""Photos and how many faces they have."""
BROKEN = {
    "cut": "truncated", "words": "not_an_image", "empty": "empty", "bomb": "too_large", "gone": "missing",
    "other": "changed",
}  # fmt: skip
Rows = dict[tuple[str, str], np.ndarray]
"""(Role, photo) -> rows of all of its views."""


def picture(seed: int, kind: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def content_of(name: str) -> bytes:
    if name in GOOD:
        number = ord(name)
        return picture(number, "PNG" if number % 2 else "JPEG", (100 + number, 90))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return {
        "cut": picture(0, "JPEG", (200, 150))[:1500],
        "words": b"no photo at all",
        "empty": b"",
        "bomb": b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""),
        "gone": picture(1, "PNG", (50, 40)),
        "other": picture(2, "PNG", (50, 40)),
    }[name]


@dataclass
class Corpus:
    """Photos on disk and the crops of their faces, and what each good one gave alone."""

    root: Path
    plans: Sequence[RolePlan]
    weights_folder: Path
    alone: dict[int, Rows] = field(default_factory=dict, repr=False)

    def rows(self, names: Sequence[str], batch: int) -> tuple[Rows, dict[str, Ledger]]:
        """Extract these photos, in this order, into a store of their own."""
        samples = [self._sample(name) for name in names]
        found = {s.sample_id: [FaceItem(self._key(s.sample_id), self._faces(s.sample_id))] for s in samples}
        detections = Detections(found, dict.fromkeys(found, (50, 50)), {}, KEY)
        ledgers = {plan.role: Ledger(plan.role) for plan in self.plans}
        with tempfile.TemporaryDirectory() as place:
            store = Store(Path(place) / "store")
            self._crop(store, names)
            how = SETTINGS.model_copy(update={"batch_size": batch})
            manifest = Manifest(tuple(samples))
            stage.run(manifest, self.root, store, detections, self.plans, how, self.weights_folder, ledgers)
            rows: Rows = {}
            for plan in self.plans:
                [spec] = plan.blocks.values()
                block = store.open(spec)
                for sample in samples:
                    plain = self._key(sample.sample_id) if plan.crops else item_key(sample.content)
                    keys = list(stage.viewed([plain], SETTINGS.views))
                    if block.has(keys).all():
                        rows[plan.role, sample.sample_id] = block.rows(keys)[0].copy()
            return rows, ledgers

    def _crop(self, store: Store, names: Sequence[str]) -> None:
        """Crops of the good photos; those of the others are missing."""
        [spec] = [plan.crops for plan in self.plans if plan.crops]
        with store.writer(spec) as writer:
            for name in sorted(set(names) & GOOD.keys()):
                rng = np.random.default_rng(ord(name))
                writer.add(self._key(name), rng.integers(0, 256, (GOOD[name], *spec.shape), dtype=np.uint8))

    def _sample(self, name: str) -> Sample:
        digest = hashlib.sha256(content_of(name)).hexdigest()
        return Sample(name, name, "image", (), "train", "", "", (), digest)

    def _key(self, name: str) -> bytes:
        return item_key(self._sample(name).content, region=FACES)

    def _faces(self, name: str) -> Faces:
        return Faces.from_rows(np.ones((GOOD.get(name, 1), 15), np.float32), (50, 50))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path) -> Iterator[Corpus]:
    for name in ("mini_xception", "effnet_lite0"):
        fetch(name, weights_folder)
    root = tmp_path_factory.mktemp("photos")
    for name in (*GOOD, *BROKEN):
        (root / name).write_bytes(content_of(name))
    (root / "gone").unlink()
    (root / "other").write_bytes(picture(3, "PNG", (50, 40)))
    plans = [plan_role(role, SETTINGS, weights_folder, KEY, "found") for role in SETTINGS.backbones]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "load_forward", lru_cache(stage.load_forward))  # once, not in each example
        yield Corpus(root, plans, weights_folder)
    shutil.rmtree(root)


NAMES = st.lists(st.sampled_from([*GOOD, *BROKEN]), min_size=2, unique=True)


@given(names=NAMES.filter(lambda names: any(name in GOOD for name in names)), batch=st.sampled_from([1, 4]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_features_are_the_same_alone_and_in_company(corpus: Corpus, names: list[str], batch: int) -> None:
    good = [name for name in names if name in GOOD]
    if batch not in corpus.alone:
        corpus.alone[batch] = {}
        for name in GOOD:
            corpus.alone[batch] |= corpus.rows([name], batch)[0]
    rows, ledgers = corpus.rows(names, batch)
    assert rows.keys() == {(plan.role, name) for plan in corpus.plans for name in good}
    for key, values in rows.items():
        assert len(values) == 2 * (GOOD[key[1]] if key[0] == "expression" else 1)
        assert np.array_equal(values, corpus.alone[batch][key]), f"{key} in a batch of {batch}"
        first = corpus.alone[min(corpus.alone)][key]
        assert np.allclose(values, first, rtol=1e-3, atol=1e-4), f"{key}: another batch size"
    broken = [name for name in names if name in BROKEN]
    assert {name: reason for name, (reason, _) in ledgers["scene"].entries.items()} == {
        name: BROKEN[name] for name in broken
    }
    assert {name: reason for name, (reason, _) in ledgers["expression"].entries.items()} == dict.fromkeys(
        broken, "missing_crops"
    )
