"""Heads that read faces only, or photos only: what the settings must and may not name, and the way to predictions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import predictions
from stages.errors import DataError, SettingError
from stages.heads import registry
from stages.ledger import Ledger
from stages.train.answering import infer
from stages.train.attention import read_looks
from stages.train.features import gather
from stages.train.models import load
from stages.train.run import run
from stages.train.settings import TrainSettings

BLOCKS = {"face": ("faces", "resnet29/embedding"), "global": ("global", "effnet_lite0/pooled")}


LOOKING = ("temporal", "average", "independent", "attention", "shift")


def settings_of(kind: str, **changes: Any) -> TrainSettings:
    """One head, with the blocks that it reads."""
    module, variant = registry.find(kind)
    blocks: dict[str, Any] = {key: [block] for key, block in (BLOCKS[level] for level in module.NEEDS[variant])}
    if asked := registry.inputs_of(kind):
        named = {"vector": "embedding", "features": "embedding", "map": "grid"}
        blocks["inputs"] = {name: [f"resnet29/{named[one.kind]}"] for name, one in asked.items()}
    steps = {"epochs": 15, "batch_size": 8, "learning_rate": 0.03, "dropout": 0.2}
    head = {"kind": kind, **(steps if registry.fitter(kind) is None else {}), **blocks, **changes}
    return TrainSettings.model_validate({"seeds": [0], "heads": {"h": head}})


def _small(kind: str) -> bool:
    """Heads that read pixels or persons have networks of their own, and their own tests."""
    inputs = registry.inputs_of(kind).values()
    return all(one.level == "frame" and one.kind != "pixels" for one in inputs)


@pytest.mark.parametrize("kind", [*filter(_small, registry.names())])
def test_every_head_trains_and_its_model_answers_the_same(populated: Any, tmp_path: Path, kind: str) -> None:
    settings = settings_of(kind)
    [trained] = run(populated.inputs(), settings, tmp_path, Ledger("train"))
    found = predictions.read(tmp_path / "predictions" / "heads" / "h-s0.csv")
    assert len(found.sample_ids) == 40
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert np.isfinite(trained.loss)
    assert min(trained.accuracy.values()) >= 0.75  # a quarter has no face
    [model] = load(tmp_path / "models" / "heads" / "h-s0").members
    inputs, head = populated.inputs(), settings.heads["h"]
    blocks = [
        [inputs.plans[r].blocks[t] for r, _, t in (b.partition("/") for b in some)]
        for some in (head.faces, head.global_)
    ]
    features = gather(
        inputs.manifest.samples,
        inputs.store,
        inputs.detections,
        *blocks,
        max_faces=15,
        ledger=Ledger("predict"),
        inputs={
            name: [inputs.plans["resnet29"].blocks[b.partition("/")[2]] for b in some]
            for name, some in head.inputs.items()
        },
    )
    answered, _ = infer(model.head, features.scaled(*model.scales, model.input_scales))
    np.testing.assert_allclose(answered, found.probabilities, atol=1e-6)
    assert set(model.extract.backbones) == {block.partition("/")[0] for block in head.blocks}
    looks = tmp_path / "attention" / "heads" / "h-s0.safetensors"
    assert looks.exists() == ("frames" in head.inputs and kind.rpartition(":")[2] in LOOKING)
    if looks.exists():
        ids, looked = read_looks(looks)
        assert ids == found.sample_ids
        assert looked.offsets[-1] == 30  # of the 40 samples a quarter has no face
        frames = looked.values.get("frames")
        if frames is not None:
            np.testing.assert_allclose(frames, 1, atol=1e-3)  # one frame each


def test_a_head_of_photos_gives_faces_no_weight(populated: Any, tmp_path: Path) -> None:
    run(populated.inputs(), settings_of("tan2017:global"), tmp_path, Ledger("train"))
    with open(tmp_path / "attention" / "heads" / "h-s0.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == sum(i % 4 for i in range(40))
    assert {float(row["weight"]) for row in rows} == {0.0}


def test_a_head_of_photos_takes_samples_without_features_of_faces(populated: Any, tmp_path: Path) -> None:
    populated.add("x", "calm", faces=False)
    for kind, known in (("tan2017:global", True), ("tan2017:all", False)):
        run(populated.inputs(), settings_of(kind), tmp_path / kind, Ledger("train"))
        found = predictions.read(tmp_path / kind / "predictions" / "heads" / "h-s0.csv")
        assert ("x" in found.sample_ids) == known


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (
            "gupta2018:average",
            {"faces": []},
            "train.heads.h.faces is empty, and gupta2018:average reads faces: name a face block, ROLE/TAP",
        ),
        (
            "ours:transformer",
            {"global": []},
            "train.heads.h.global is empty, and ours:transformer reads whole photos: name a global block, ROLE/TAP",
        ),
        ("tan2017:global", {"global": []}, "train.heads.h.global is empty, and tan2017:global reads whole photos"),
        (
            "tan2017:all",
            {"global": ["effnet_lite0/pooled"]},
            "train.heads.h.global is effnet_lite0/pooled, and tan2017:all does not read whole photos: use global: []",
        ),
        (
            "tan2017:global",
            {"faces": ["resnet29/embedding", "resnet29/wide"]},
            "train.heads.h.faces is resnet29/embedding, resnet29/wide, and tan2017:global does not read faces: use "
            "faces: []",
        ),
    ],
)
def test_a_level_that_is_missing_or_ignored_is_named(
    populated: Any, tmp_path: Path, kind: str, changes: Any, said: str
) -> None:
    with pytest.raises(SettingError) as caught:
        run(populated.inputs(), settings_of(kind, **changes), tmp_path, Ledger("train"))
    assert str(caught.value).startswith(said)


def test_a_head_of_faces_where_no_training_sample_has_one(world: Any, tmp_path: Path) -> None:
    for i in range(8):
        world.add(f"s{i}", ("calm", "glad")[i % 2], count=0)
    world.add("t", "calm", "test", count=2)
    with pytest.raises(DataError, match=r"no face, and tan2017:all reads nothing else"):
        run(world.inputs(), settings_of("tan2017:all"), tmp_path, Ledger("train"))
    assert len(run(world.inputs(), settings_of("gupta2018:average"), tmp_path, Ledger("train"))) == 1


def test_what_has_no_part_in_a_baseline_is_refused(populated: Any, tmp_path: Path) -> None:
    said = r"train\.heads\.h\.epochs has no part in baselines:svm, .* leave epochs, loss out"
    with pytest.raises(SettingError, match=said):
        run(
            populated.inputs(),
            settings_of("baselines:svm", epochs=3, loss={"kind": "focal"}),
            tmp_path,
            Ledger("train"),
        )


def test_frames_of_a_head_that_reads_none(populated: Any, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"train\.heads\.h\.frames has no part in tan2017:all, which reads no frames"
    ):
        run(populated.inputs(), settings_of("tan2017:all", frames={"train": 4}), tmp_path, Ledger("train"))
    run(populated.inputs(), settings_of("aminbeidokhti2019:average", frames={"train": 4}), tmp_path, Ledger("train"))


INPUTS: list[tuple[str, dict[str, Any], str]] = [
    ("aminbeidokhti2019:temporal", {}, r"inputs\.frames is empty, and .* reads it: name features of a frame, ROLE/TAP"),
    ("aminbeidokhti2019:temporal", {"frame": ["resnet29/grid"]}, r"inputs\.frame: .* no such input; it has frames"),
    ("aminbeidokhti2019:temporal", {"frames": ["a/b"]}, r"inputs\.frames: 'a/b' is not extracted; there is eff"),
    (
        "aminbeidokhti2019:attention",
        {"frames": ["resnet29/wide"]},
        r"a face block of shape \(3,\), .* reads map",
    ),
    ("aminbeidokhti2019:attention", {"frames": ["effnet_lite0/pooled"]}, r"is a global block of shape \(5,\)"),
    ("gupta2018:average", {"frames": ["resnet29/wide"]}, r"gupta2018:average has no such input; it has none"),
    ("aminbeidokhti2019:temporal", {"frames": ["resnet29/wide", "resnet29/grid"]}, r"cannot be joined"),
]


@pytest.mark.parametrize(("kind", "inputs", "said"), INPUTS, ids=[said for _, _, said in INPUTS])
def test_inputs_that_do_not_fit(populated: Any, tmp_path: Path, kind: str, inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        run(populated.inputs(), settings_of(kind, inputs=inputs), tmp_path, Ledger("train"))
