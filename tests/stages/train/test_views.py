"""Training on drawn views: which rows a batch has, that every view is drawn, and that prediction sees the plain one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cache.keys import PLAIN, item_key, view_key
from stages import predictions
from stages.errors import SettingError
from stages.extract.imported import KEY_DIGITS, FaceItems, imported_spec
from stages.extract.settings import ViewSettings
from stages.extract.views import FLIP, names
from stages.heads.batch import HeadBatch, HeadOutput
from stages.ledger import Ledger
from stages.train.answering import answer, infer
from stages.train.features import HELD_BYTES, Features, gather
from stages.train.models import load
from stages.train.population.draws import Draws
from stages.train.run import run
from stages.train.settings import TrainSettings

VIEWS = ViewSettings(flip=True, crops=1)
NAMES = names(VIEWS)


def with_views(world: Any) -> Any:
    """Every item once more in every other view, with the number of the view times 100 added to its features."""
    for spec, key, rows in list(world.waiting):
        for number, view in enumerate(NAMES[1:], start=1):
            world.waiting.append((spec, view_key(key, view), rows + 100 * number))
    return world


def gathered(world: Any, views: tuple[str, ...] = NAMES, held: int = HELD_BYTES) -> tuple[Features, Ledger]:
    inputs, ledger = world.inputs(), Ledger("train")
    found = gather(
        world.samples,
        world.store,
        world.detections,
        [inputs.plans["resnet29"].blocks[tap] for tap in ("embedding", "wide")],
        [inputs.plans["effnet_lite0"].blocks["pooled"]],
        max_faces=2,
        ledger=ledger,
        views=views,
        held_bytes=held,
    )
    return found, ledger


@pytest.mark.parametrize("held", [HELD_BYTES, 0])
def test_a_batch_has_the_views_asked_for(populated: Any, held: int) -> None:
    features, ledger = gathered(with_views(populated), held=held)
    plain, _ = gathered(populated, (PLAIN,), held)
    assert (features.views, len(features), len(ledger)) == (3, len(plain), 0)
    rows, drawn = np.array([7, 0, 30, 2, 7]), np.array([2, 1, 0, 1, 1])
    found, expected = features.batch(rows, drawn), plain.batch(rows)
    assert torch.equal(features.batch(rows).faces, expected.faces)
    assert torch.equal(features.batch(rows).global_, expected.global_)
    assert torch.equal(found.face_mask, expected.face_mask)
    assert torch.equal(found.boxes, expected.boxes)
    shift = torch.from_numpy(100.0 * drawn).float()
    real = expected.face_mask[..., None]
    torch.testing.assert_close(found.faces, (expected.faces + shift[:, None, None]) * real)
    torch.testing.assert_close(found.global_, expected.global_ + shift[:, None], atol=0.07, rtol=0)  # float16


def test_scales_are_those_of_the_plain_view(populated: Any) -> None:
    rows = np.arange(0, 40, 3)
    ours, plain = gathered(with_views(populated))[0].scales(rows), gathered(populated, (PLAIN,))[0].scales(rows)
    for (mean, deviation), (wanted_mean, wanted_deviation) in zip(ours, plain, strict=True):
        assert np.array_equal(mean, wanted_mean)
        assert np.array_equal(deviation, wanted_deviation)


def test_a_sample_that_lacks_a_view_is_recorded(world: Any) -> None:
    for name in ("a", "b"):
        world.add(name, "calm")
    lost = view_key(world.items["b"][0].key, FLIP)
    with_views(world)
    world.waiting[:] = [one for one in world.waiting if one[1] != lost]
    features, ledger = gathered(world)
    assert [sample.sample_id for sample in features.samples] == ["a"]
    assert ledger.entries["b"][0] == "no_features"
    assert len(gathered(world, (PLAIN,))[0]) == 2


class Seen(nn.Module):
    """Notes which view each sample comes in, batch after batch: the first feature says it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)
        self.views: list[list[int]] = []

    def forward(self, batch: HeadBatch) -> HeadOutput:
        self.views.append([round(float(v) / 100) for v in batch.global_.mean(1)])
        return HeadOutput(self.linear(batch.global_ / 300), torch.zeros(batch.face_mask.shape))


def test_each_view_is_drawn_about_as_often(populated: Any) -> None:
    features, _ = gathered(with_views(populated))
    drawn = [Draws().views(3, epoch, len(features), features.views) for epoch in range(30)]
    counts = np.bincount(np.concatenate(drawn), minlength=3)
    assert counts.sum() == 30 * len(features)
    assert counts.min() > 0.28 * counts.sum()


def test_what_is_predicted_is_the_plain_view(populated: Any) -> None:
    features, _ = gathered(with_views(populated))
    head = Seen()
    infer(head, features)
    assert {v for batch in head.views for v in batch} == {0}
    head.views.clear()
    answer(head, features, view=2)
    assert {v for batch in head.views for v in batch} == {2}


def heads(**changes: object) -> TrainSettings:
    head = {"kind": "gupta2018:average", "faces": ["resnet29/embedding"], "global": ["effnet_lite0/pooled"], **changes}
    return TrainSettings.model_validate({"seeds": [0], "heads": {"one": {**head, "epochs": 2}}})


def test_the_stage_draws_where_the_head_says_so(populated: Any, tmp_path: Path) -> None:
    world = with_views(populated)
    inputs = world.inputs()
    inputs = replace(inputs, extract=inputs.extract.model_copy(update={"views": VIEWS}))
    found = {}
    for name, settings in (("plain", heads()), ("drawn", heads(views="drawn"))):
        (tmp_path / name).mkdir()
        [head] = run(inputs, settings, tmp_path / name, Ledger("train"))
        found[name] = head.loss
    assert found["plain"] != found["drawn"]


def test_drawing_without_views_is_refused(populated: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"train\.heads\.one\.views is 'drawn', but extract\.views"):
        run(populated.inputs(), heads(views="drawn"), tmp_path, Ledger("train"))


def test_drawing_for_a_head_that_has_no_other_view_is_refused(populated: Any, tmp_path: Path) -> None:
    inputs, imported = populated.inputs(), {}
    mood = imported_spec("mood", "face", 2, "0" * 64, FaceItems(inputs.detections, inputs.detect.faces))
    for spec in (mood, imported_spec("voice", "global", 2, "0" * 64, None)):
        imported[spec.tap] = spec.key[:KEY_DIGITS]
        with inputs.store.writer(spec) as writer:
            writer.add(item_key("one"), np.zeros((1, 2), np.float32))
    extract = inputs.extract.model_copy(update={"views": VIEWS, "imported": imported})
    settings = heads(views="drawn", faces=("imported/mood",), **{"global": ("imported/voice",)})
    with pytest.raises(SettingError, match=r"train\.heads\.one\.views is 'drawn', but it reads imported features only"):
        run(replace(inputs, extract=extract), settings, tmp_path, Ledger("train"))


def test_mirrored_answers_are_the_mean_of_both_views(populated: Any, tmp_path: Path) -> None:
    """Training sees the plain view alone."""
    world = with_views(populated)
    inputs = world.inputs()
    inputs = replace(inputs, extract=inputs.extract.model_copy(update={"views": VIEWS}))
    found: dict[str, Any] = {}
    for name in ("plain", "mirrored"):
        (tmp_path / name).mkdir()
        run(inputs, heads(answer=name), tmp_path / name, Ledger("train"))
        found[name] = predictions.read(tmp_path / name / "predictions" / "heads" / "one-s0.csv")
        [model] = load(tmp_path / name / "models" / "heads" / "one-s0").members
        assert model.extract.views == ViewSettings(flip=name == "mirrored")
        found[f"{name} weights"] = model.head.state_dict()
    assert all(torch.equal(found["plain weights"][key], value) for key, value in found["mirrored weights"].items())
    blocks = [[inputs.plans["resnet29"].blocks["embedding"]], [inputs.plans["effnet_lite0"].blocks["pooled"]]]
    features = gather(
        inputs.manifest.samples,
        inputs.store,
        inputs.detections,
        *blocks,
        max_faces=15,
        ledger=Ledger("train"),
        views=NAMES,
    ).scaled(*model.scales)
    each = [answer(model.head, features, view=view).logits for view in (0, NAMES.index(FLIP))]
    odds = [np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in each]
    np.testing.assert_allclose(found["plain"].probabilities, odds[0], atol=1e-5)
    np.testing.assert_allclose(found["mirrored"].probabilities, (odds[0] + odds[1]) / 2, atol=1e-5)
    assert np.abs(odds[0] - odds[1]).max() > 1e-3


def test_mirrored_answers_need_the_mirrored_view(populated: Any, tmp_path: Path) -> None:
    said = r"train\.heads\.one\.answer is 'mirrored', but extract\.views asks for no mirrored view; set flip there"
    with pytest.raises(SettingError, match=said):
        run(populated.inputs(), heads(answer="mirrored"), tmp_path, Ledger("train"))


def test_candidates_with_and_without_views(populated: Any, tmp_path: Path) -> None:
    """Each is trained on its own features, and judged by samples that all have."""
    lost = view_key(item_key(populated.samples[4].content), FLIP)
    assert populated.samples[4].split == "val"
    with_views(populated)
    populated.waiting[:] = [one for one in populated.waiting if one[1] != lost]
    head = {
        "kind": "gupta2018:average",
        "faces": ["resnet29/embedding"],
        "global": ["effnet_lite0/pooled"],
        "epochs": 2,
        "batch_size": 8,
        "grid": {"views": ["plain", "drawn"], "answer": ["plain", "mirrored"]},
    }
    inputs = populated.inputs()
    inputs = replace(inputs, extract=inputs.extract.model_copy(update={"views": VIEWS}))
    settings = TrainSettings.model_validate({"seeds": [0], "heads": {"h": head}})
    [one] = run(inputs, settings, tmp_path, Ledger("train"))
    assert one.choice is not None
    assert one.choice.n == 9
    assert len({round(tried.losses[0], 9) for tried in one.choice.tried}) == 4
