"""Views in the stage: cached beside the plain one, each computed once, whatever was asked for first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.keys import item_key, view_key
from cache.store import Store
from stages.backbones import registry
from stages.backbones.preprocess import fit
from stages.blocks import Counts
from stages.extract import run as stage
from stages.extract import views
from stages.extract.plan import plan_role
from stages.extract.settings import BackboneSettings, ExtractSettings, ViewSettings
from stages.index.samples import open_sample
from stages.ledger import Ledger

KEY = "0" * 64
PLAIN = ExtractSettings(
    backbones={
        "identity": BackboneSettings(backbone="resnet29", taps=("embedding",)),
        "scene": BackboneSettings(backbone="effnet_lite0", taps=("pooled",), compression="gzip"),
    },
    device="cpu",
    batch_size=4,
)
SOME = PLAIN.model_copy(update={"views": ViewSettings(flip=True, crops=1, area=0.5)})
MORE = PLAIN.model_copy(update={"views": ViewSettings(flip=True, crops=2, area=0.5)})


def means(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What can be foreseen of a network: the mean of the left and of the right half, in two numbers."""
    half = pixels.shape[2] // 2
    sides = [
        part.reshape(len(pixels), -1).mean(1, dtype=np.float32) for part in (pixels[:, :, :half], pixels[:, :, half:])
    ]
    both = np.stack(sides, 1)
    return {"embedding": np.tile(both, (1, 64)), "pooled": np.tile(both, (1, 640))}


@pytest.fixture
def go(place: Any, weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(stage, "load_forward", lambda *_: means)

    def run_it(role: str, settings: ExtractSettings) -> tuple[list, Counts, Any]:
        plan = plan_role(role, settings, weights_folder, KEY, "found")
        ledger = Ledger(f"extract/{role}")
        found = stage.run(
            place.manifest, place.root, place.store, place.detections, [plan], settings, weights_folder, {role: ledger}
        )
        assert not ledger.entries
        return found[role].rows, found[role].counts, place.store.open(next(iter(plan.blocks.values())))

    return run_it


@pytest.mark.parametrize("role", ["identity", "scene"])
def test_only_missing_views_are_computed(go: Callable[..., Any], role: str) -> None:
    items = 3 if role == "identity" else 4  # c.png has no face; twin.png is a.png
    rows, counts, block = go(role, PLAIN)
    assert counts == Counts(total=items, computed=items, failed=0)
    plain = {key: block.item(key)[0].copy() for key in block.keys}
    rows, counts, _ = go(role, SOME)
    assert counts == Counts(total=3 * items, computed=2 * items, failed=0)
    assert len(rows) == 3 * items
    rows, counts, block = go(role, MORE)
    assert counts == Counts(total=4 * items, computed=items, failed=0)
    assert go(role, MORE)[:2] == (rows, Counts(total=4 * items, computed=0, failed=0))
    for key, values in plain.items():
        assert np.array_equal(block.item(key)[0], values)


def test_the_views_of_faces_are_what_their_names_say(
    place: Any, go: Callable[..., Any], pixels: Callable[[int, int], np.ndarray]
) -> None:
    _, _, block = go("identity", SOME)
    key, crops = place.key("d.png"), pixels(3, 3)
    for view in views.names(SOME.views):
        seen = views.of_crops(crops, view, SOME.views, key)
        wanted = means(seen)["embedding"].astype(np.float16)
        assert np.array_equal(block.item(view_key(key, view))[0], wanted)
    mirrored, plain = block.item(view_key(key, "flip"))[0], block.item(key)[0]
    assert np.array_equal(mirrored[:, 0], plain[:, 1])


def test_the_views_of_a_photo_are_what_their_names_say(place: Any, go: Callable[..., Any]) -> None:
    _, _, block = go("scene", SOME)
    sample = place.manifest.by_id["b.png"]
    key, photo = item_key(sample.content), open_sample(sample, place.root)
    spec = registry.get_spec("effnet_lite0")
    for view in views.names(SOME.views):
        seen = fit(views.of_photo(photo, view, SOME.views, key), spec)
        wanted = means(seen[None])["pooled"].astype(np.float16)
        assert np.array_equal(block.item(view_key(key, view))[0], wanted)


def test_shards_say_licence_packages_and_are_compressed_where_asked(place: Any, go: Callable[..., Any]) -> None:
    for role, compression, licence in (("identity", None, "CC0-1.0"), ("scene", "gzip", "Apache-2.0")):
        _, _, block = go(role, PLAIN)
        with h5py.File(block.shards[0].path) as file:
            assert file["rows"].compression == compression  # pyright: ignore
            assert licence in str(file.attrs["licence"])
            assert "torch " in str(file.attrs["packages"])
        copied, _ = Store(place.store.root).open(block.spec).rows(block.keys)
        assert np.isfinite(copied).all()
