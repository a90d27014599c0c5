"""Networks and a head trained together, end to end: what is written, where it starts, what of it `extract` reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.backbones.about import read_about
from stages.backbones.registry import get_spec
from stages.errors import MissingInputError, SettingError, WeightsError
from stages.extract.plan import finetuned_weights, weights_of
from stages.extract.settings import ExtractSettings
from stages.finetune import loop, seen
from stages.finetune.crops import choose
from stages.finetune.network import EndToEnd
from stages.finetune.run import Place, Result, run
from stages.finetune.settings import FinetuneSettings
from stages.finetune.start import load_finetuned
from stages.finetune.tasks import Alone, Joint, task_of
from stages.heads.batch import HeadBatch
from stages.index.manifest import Manifest
from stages.ledger import Ledger

FACE, SCENE, OTHER = "mini_xception", "torchvision:shufflenet_v2_x0_5", "torchvision:mnasnet0_5"
FACES_OF_FRAME = (1, 0, 2, 1, 3, 1)  # of the clip, see conftest
BASE: dict[str, Any] = {
    "head": {"kind": "gupta2018:attention_c", "dropout": 0.2},
    "start": "random",
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.001,
    "head_learning_rate": 0.01,
    "device": "cpu",
}
BELOW: dict[str, Any] = {"backbone": FACE, "unit": "faces"}
FACES: dict[str, Any] = BELOW | {"head": {"kind": "gupta2018:faces", "dropout": 0.2}}
PHOTOS: dict[str, Any] = {"backbone": SCENE, "unit": "photo", "head": {"kind": "tan2017:global", "dropout": 0.2}}
BOTH: dict[str, Any] = BELOW | {"photos": {"backbone": SCENE, "start": "random"}}
ALONE: dict[str, Any] = {"head": None, "head_learning_rate": None}


def settings(**said: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate(BASE | said)


def tune(corpus: Any, folder: Path, name: str = "one", ledger: Ledger | None = None, **said: Any) -> Result:
    """The twin of the first photo is for validation, d.png for the test; the sad ones are glad."""
    splits = {"twin.png": "val", "d.png": "test"}
    samples = tuple(
        replace(
            sample,
            split=splits.get(sample.sample_id, "train"),
            group=f"group {sample.sample_id}",
            labels=("calm" if sample.labels == ("calm",) else "glad",),
        )
        for sample in corpus.manifest.samples
    )
    source = corpus.source(classes=("calm", "glad"), ledger=ledger or Ledger("finetune"))
    return run(Manifest(samples), source, settings(**said), Place(folder, name, folder / "weights"))


def weights_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"steps.csv", "epochs.csv", "training.json"}


def test_faces_and_photos_below_a_head(corpus: Any, tmp_path: Path) -> None:
    ledger = Ledger("finetune")
    result = tune(corpus, tmp_path, ledger=ledger, **BOTH)
    folder = tmp_path / "one"
    parts = ("backbone", "photos", "head")
    assert weights_in(folder) == {f"{part}.{end}" for part in parts for end in ("safetensors", "seen.json")}
    assert not ledger.entries
    assert result.rows == {"train": 6, "val": 1}
    assert not result.left_out, "c.png has no face, and is seen as a photo"
    assert result.answers.answered.all()
    assert result.started == (
        f"{FACE} starts from random weights",
        f"{SCENE} starts from random weights",
        "the head is new, for 2 classes",
    )
    about = read_about(folder / "head.safetensors")
    assert (about["backbone"], about["photos"], about["kind"]) == (FACE, SCENE, "gupta2018:attention_c")
    assert (about["widths"], about["classes"]) == ([128, 1024], ["calm", "glad"])
    found = [seen.read(folder / f"{part}.safetensors") for part in parts]
    assert {one.trained for one in found} == {result.seen.trained}, "each has seen what all of them have"
    assert len({one.weights for one in found}) == 3
    [row] = result.history.epochs
    assert (row.learning_rate, row.head_learning_rate) == (0.001, 0.01)


@pytest.mark.parametrize(
    ("said", "parts", "rows", "widths"),
    [(FACES, {"backbone", "head"}, 5, [128, 0]), (PHOTOS, {"backbone", "head"}, 6, [0, 1024])],
    ids=["faces", "photos"],
)
def test_one_network_below_a_head(
    corpus: Any, tmp_path: Path, said: dict[str, Any], parts: set[str], rows: int, widths: list[int]
) -> None:
    result = tune(corpus, tmp_path, **said)
    assert weights_in(tmp_path / "one") == {f"{part}.{end}" for part in parts for end in ("safetensors", "seen.json")}
    assert result.rows == {"train": rows, "val": 1}
    assert read_about(tmp_path / "one" / "head.safetensors")["widths"] == widths
    lacking = {s.sample_id for s, has in zip(result.answers.samples, result.answers.answered, strict=True) if not has}
    assert lacking == ({"c.png"} if said is FACES else set())
    assert finetuned_weights(tmp_path, "one", get_spec(said["backbone"])) == result.weights


def stop_after_an_epoch(patch: pytest.MonkeyPatch) -> None:
    end = loop._Training.end_epoch

    def stopped(self: Any, *sets: Any) -> None:
        end(self, *sets)
        raise KeyboardInterrupt

    patch.setattr(loop._Training, "end_epoch", stopped)


def test_the_same_seed_gives_the_same_bits_also_after_a_stop(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {"augment": {"flip": True}}
    said: dict[str, Any] = BOTH | drawn | {"epochs": 2, "batch_size": 3, "photos": BOTH["photos"] | drawn}
    first = tune(corpus, tmp_path / "whole", **said)
    with monkeypatch.context() as patch:
        stop_after_an_epoch(patch)
        with pytest.raises(KeyboardInterrupt):
            tune(corpus, tmp_path / "again", **said)
    assert weights_in(tmp_path / "again" / "one") == {"checkpoint"}
    again = tune(corpus, tmp_path / "again", **said)
    for part in ("backbone", "photos", "head"):
        assert (tmp_path / "again" / "one" / f"{part}.safetensors").read_bytes() == (
            tmp_path / "whole" / "one" / f"{part}.safetensors"
        ).read_bytes()
    assert np.array_equal(again.answers.probabilities, first.answers.probabilities)
    assert not tune(corpus, tmp_path / "again", **said).trained, "its parts are read again"


def test_it_starts_from_other_fine_tunes_and_has_seen_what_they_have(corpus: Any, tmp_path: Path) -> None:
    faces = tune(corpus, tmp_path, "faces", backbone=FACE, unit="face", **ALONE)
    scenes = tune(corpus, tmp_path, "scenes", backbone=SCENE, unit="photo", patience=1, **ALONE)
    photos = {"backbone": SCENE, "start": "finetune:scenes"}
    both = tune(corpus, tmp_path, "both", **BELOW | {"start": "finetune:faces", "photos": photos})
    assert both.started == (
        f"{FACE} starts from fine-tune faces",
        f"{SCENE} starts from fine-tune scenes",
        "the head is new, for 2 classes: that fine-tune had a last layer instead",
    )
    assert both.seen.chain == (faces.seen.weights, scenes.seen.weights)
    assert both.seen.stopped == scenes.seen.stopped != faces.seen.stopped
    average: dict[str, Any] = {"head": {"kind": "gupta2018:average"}}
    other: dict[str, Any] = BELOW | {"start": "finetune:both", "photos": photos | {"start": "finetune:both"}}
    lower: dict[str, Any] = {"learning_rate": 1e-12, "head_learning_rate": 1e-12}
    kept = tune(corpus, tmp_path, "kept", **other | lower)
    assert kept.started[2] == "the head is kept from fine-tune both"
    for part in ("backbone", "photos", "head"):
        one, two = (load_file(tmp_path / name / f"{part}.safetensors") for name in ("both", "kept"))
        trained = [key for key in one if "running" not in key and "num_batches" not in key]
        assert trained
        assert all(torch.allclose(one[key], two[key], atol=1e-6) for key in trained)
    new = tune(corpus, tmp_path, "new", **other | average)
    assert "its kind was gupta2018:attention_c and is gupta2018:average" in new.started[2]
    with pytest.raises(SettingError, match="keep_last is true, but the head of both does not fit: its kind was"):
        tune(corpus, tmp_path, "kept", keep_last=True, **other | average)
    whole = tune(corpus, tmp_path, "whole", backbone=SCENE, unit="photo", start="finetune:both", **ALONE)
    assert whole.started[1].endswith("that fine-tune had a head instead")
    assert whole.seen.chain[0] == seen.read(tmp_path / "both" / "photos.safetensors").weights


def test_what_another_training_left_is_removed(corpus: Any, tmp_path: Path) -> None:
    tune(corpus, tmp_path, **BOTH)
    tune(corpus, tmp_path, backbone=FACE, unit="face", **ALONE)
    assert weights_in(tmp_path / "one") == {"backbone.safetensors", "backbone.seen.json", "last_layer.safetensors"}


def test_a_role_gets_the_network_that_sees_what_it_sees(corpus: Any, tmp_path: Path) -> None:
    tune(corpus, tmp_path, **BOTH)

    def file_of(backbone: str) -> Path | None:
        role = {"backbone": backbone, "finetuned": "one", "taps": [get_spec(backbone).taps[0].name]}
        extract = ExtractSettings.model_validate({"backbones": {"tuned": role}})
        return weights_of("tuned", get_spec(backbone), extract, tmp_path / "weights", tmp_path)[0]

    for backbone, file in ((FACE, "backbone"), (SCENE, "photos")):
        assert file_of(backbone) == tmp_path / "one" / f"{file}.safetensors"
        load_finetuned(backbone, tmp_path / "one" / f"{file}.safetensors")
    with pytest.raises(WeightsError, match=rf"photos\.safetensors is of {SCENE}, and extract\.backbones\.tuned wants"):
        file_of(OTHER)
    with pytest.raises(WeightsError, match=rf"backbone\.safetensors is of {FACE}, and .* wants resnet_small:18"):
        file_of("resnet_small:18")


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (
            FACES | {"head": {"kind": "gupta2018:d"}},
            SettingError,
            "head kind 'gupta2018:d': use one of gupta2018:average",
        ),
        (
            BELOW,
            SettingError,
            "attention_c reads whole photos beside faces: say which network in photos",
        ),
        (FACES | {"photos": {"backbone": SCENE}}, SettingError, "head gupta2018:faces reads faces alone: leave photos"),
        (BELOW | {"head": PHOTOS["head"]}, SettingError, "head tan2017:global reads no faces: use unit photo"),
        (
            PHOTOS | {"head": FACES["head"]},
            SettingError,
            "unit is photo, and head gupta2018:faces reads faces: use",
        ),
        (FACES | {"backbone": SCENE}, SettingError, f"unit is faces, and the backbone {SCENE} sees photos: use one of"),
        (PHOTOS | {"backbone": FACE}, SettingError, "sees crops of faces: use one of whole photos"),
        (BELOW | {"photos": {"backbone": FACE}}, SettingError, f"photos.backbone {FACE} sees crops of faces"),
        (BOTH | {"photos": {"backbone": SCENE, "tap": "x"}}, SettingError, "tap is 'x'"),
        (
            BOTH | {"photos": {"backbone": SCENE, "start": "finetune:one"}},
            SettingError,
            "finetune.one.photos.start is finetune:one: it cannot start from itself",
        ),
        (
            BOTH | {"photos": {"backbone": SCENE, "start": "finetune:x"}},
            MissingInputError,
            "run kuleshov finetune x",
        ),
        (
            BOTH | {"learning_rate": 1e30, "head_learning_rate": 1e30, "epochs": 9},
            SettingError,
            r"lower learning_rate \(1e\+30\) or head_learning_rate \(1e\+30\)",
        ),
    ],
)
def test_what_cannot_be(corpus: Any, tmp_path: Path, said: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tune(corpus, tmp_path, **said)


def test_memory_that_is_too_small(corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def much(self: EndToEnd, batch: Any) -> Any:
        return torch.empty(1 << 50)

    monkeypatch.setattr(EndToEnd, "answer", much)
    with pytest.raises(SettingError, match="batch_size 4 does not fit into the memory of cpu: use 2, and accumulate 2"):
        tune(corpus, tmp_path, **FACES)


def test_what_the_head_is_given(corpus: Any, tmp_path: Path) -> None:
    """Vectors and boxes in their places, of a photo, of one without a face, and of a clip's chosen frames."""
    source = corpus.source()
    task = task_of(source, settings(**BOTH, frames=2))
    assert isinstance(task, Joint)
    assert isinstance(task_of(source, settings(**FACES | ALONE)), Alone)
    network, _ = task.start(tmp_path, {})
    assert isinstance(network, EndToEnd)
    given: list[HeadBatch] = []
    network.head.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    samples = [corpus.manifest.by_id[name] for name in ("a.png", "c.png", "clip.mp4")]
    pixels = task.pixels(samples, varied=True)
    with torch.inference_mode():
        [batch] = pixels.batches(np.arange(3), 3, None)
        network.eval()(batch)
        vectors = network.faces(batch.faces) if network.faces is not None else None
        network.train()(batch)
    plain, trained = given
    frames = np.flatnonzero(FACES_OF_FRAME)
    of_clip = sum(FACES_OF_FRAME[i] for i in frames[choose(frames, 2, None)])
    assert plain.face_mask.sum(1).tolist() == [3, 0, of_clip]
    assert vectors is not None
    assert torch.equal(plain.faces[plain.face_mask], vectors)
    width, height = corpus.detections.sizes["a.png"]
    boxes = corpus.detections.faces("a.png").boxes / np.array([width, height, width, height], np.float32)
    assert np.allclose(plain.boxes[0, :3].numpy(), boxes)
    assert not plain.boxes[1].any()
    assert plain.global_.shape == (3, 1024)
    assert trained.faces.isfinite().all()


def test_a_sample_alone_is_answered_and_not_trained_on(corpus: Any, tmp_path: Path) -> None:
    task = task_of(corpus.source(), settings(**BOTH))
    network, _ = task.start(tmp_path, {})
    [batch] = task.pixels([corpus.manifest.by_id["c.png"]], varied=True).batches(np.arange(1), 4, None)
    assert network.eval()(batch).isfinite().all()
    assert network.targets(batch)[1].all()
    assert not network.train().targets(batch)[1].any(), "batch norm is trained, and cannot measure one row"


def test_a_photo_and_its_mirror_image_may_answer_together(corpus: Any, tmp_path: Path) -> None:
    plain = tune(corpus, tmp_path, **BOTH)
    both = tune(corpus, tmp_path, answer={"mirrored": True}, **BOTH)
    logits = tune(corpus, tmp_path, answer={"mirrored": True, "of": "logits"}, **BOTH)
    assert not both.trained
    assert not logits.trained
    found = [one.answers.probabilities for one in (plain, both, logits)]
    assert all(one.sum(1) == pytest.approx(1) for one in found)
    assert not np.allclose(found[0], found[1], atol=1e-9)
    assert np.allclose(found[1], found[2], atol=1e-2)
    assert not np.array_equal(found[1], found[2])


@pytest.mark.soak
def test_the_papers_networks_and_head_together(corpus: Any, tmp_path: Path) -> None:
    said = {"preset": "gupta-attention", "epochs": 1, "batch_size": 4, "start": "random"}
    photos = {"start": "random"}
    result = tune(corpus, tmp_path, head_learning_rate=None, head={}, photos=photos, **said)
    assert read_about(tmp_path / "one" / "head.safetensors")["widths"] == [512, 2208]
    assert result.answers.answered.all()
