"""The stage in parts: the same result, whoever computes and however often."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.errors import StorePlaceError
from cache.store import Store
from stages.detect import mtcnn
from stages.detect import run as stage
from stages.detect.run import boxes_spec, run
from stages.detect.settings import DetectSettings
from stages.device import DeviceName
from stages.errors import SettingError
from stages.index.manifest import Manifest
from stages.ledger import Ledger

SampleOf = Callable[..., Any]
InTurn = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path, noise: Callable[[int], Any]) -> Path:
    """Seven photos without faces, one cut short and a twin of it, one that is gone."""
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(8):
        noise(seed).save(root / f"{seed}.png")
    for name in ("cut.png", "twin.png"):
        (root / name).write_bytes((root / "0.png").read_bytes()[:300])
    return root


@pytest.fixture
def manifest(photos: Path, sample_of: SampleOf) -> Manifest:
    manifest = Manifest(tuple(sample_of(photos, path.name) for path in photos.iterdir()))
    (photos / "7.png").unlink()
    return manifest


def rows_of(store: Store, settings: DetectSettings) -> tuple[bytes, ...]:
    block = store.open(boxes_spec(settings))
    rows, offsets = block.rows(block.keys)
    return rows.tobytes(), offsets.tobytes(), block.keys.tobytes()


def test_the_result_is_that_of_one_process(
    photos: Path,
    manifest: Manifest,
    settings: DetectSettings,
    tmp_path: Path,
    in_turn: InTurn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stores, ledgers = [Store(tmp_path / name) for name in "ab"], [Ledger("detect"), Ledger("detect")]
    alone = run(manifest, photos, stores[0], settings, ledgers[0])
    monkeypatch.setattr(stage, "PART_FRAMES", 2)
    spread = in_turn()
    parts = run(manifest, photos, stores[1], settings, ledgers[1], spread)
    assert [part.size for part in spread.seen] == [2, 1, 2, 1, 2, 1]
    assert spread.seen[-1].first == "0.png"
    assert parts[1:] == alone[1:]
    assert ledgers[0].entries == ledgers[1].entries
    assert {reason for reason, _ in ledgers[1].entries.values()} == {"truncated", "missing"}
    assert rows_of(stores[0], settings) == rows_of(stores[1], settings)
    again = in_turn()
    assert run(manifest, photos, stores[1], settings, Ledger("detect"), again)[1] == alone[1]
    assert [part.first for part in again.seen] == ["7.png"], "only what may have passed is tried again"


def test_faces_are_the_same_bits(
    detected: Any, settings: DetectSettings, store: Store, in_turn: InTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = mtcnn.load

    def counting(settings: DetectSettings, device: DeviceName) -> mtcnn.Mtcnn:
        loaded.append(device)
        return load(settings, device)

    stage._loaded.cache_clear()
    monkeypatch.setattr(mtcnn, "load", counting)
    ledger = Ledger("detect")
    _, rows, counts = run(detected.manifest, detected.root, store, settings, ledger, in_turn())
    assert (rows, counts) == (detected.rows, detected.counts)
    assert rows_of(store, settings) == rows_of(detected.store, settings)
    assert loaded == ["cpu"], "a process loads the detector once, not for every part"


def test_a_part_that_is_tried_again_does_only_what_is_missing(
    photos: Path,
    manifest: Manifest,
    settings: DetectSettings,
    store: Store,
    in_turn: InTurn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    detect = mtcnn.Mtcnn.detect_many

    def counting(self: mtcnn.Mtcnn, images: Any) -> object:
        seen.extend(image.tobytes() for image in images)
        return detect(self, images)

    monkeypatch.setattr(mtcnn.Mtcnn, "detect_many", counting)
    _, _, counts = run(manifest, photos, store, settings, Ledger("detect"), in_turn(times=2))
    assert counts.computed == len(seen) == len(set(seen)) == 7


def test_workers_with_another_store_are_one_line(
    photos: Path, manifest: Manifest, settings: DetectSettings, store: Store, in_turn: InTurn
) -> None:
    elsewhere = in_turn(after=lambda: shutil.rmtree(store.place(boxes_spec(settings)) / "journal"))
    with pytest.raises(StorePlaceError, match=f"{store.root}: 8 items that workers computed are not here"):
        run(manifest, photos, store, settings, Ledger("detect"), elsewhere)


def test_a_worker_with_another_detector_is_refused(
    photos: Path,
    manifest: Manifest,
    settings: DetectSettings,
    store: Store,
    in_turn: InTurn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = in_turn(before=lambda: monkeypatch.setattr(mtcnn, "VERSION", 0))
    with pytest.raises(SettingError, match=r"mtcnn: worker .* has another version of kuleshov"):
        run(manifest, photos, store, settings, Ledger("detect"), older)
    assert len(store.open(boxes_spec(settings))) == 0
