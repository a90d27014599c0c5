"""A network that is not trained, below a head that reads its maps and the pixels it sees (Meen et al.)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.backbones.about import read_about
from stages.backbones.preprocess import preprocess
from stages.backbones.registry import build, get_spec
from stages.errors import SettingError
from stages.finetune import checkpoint, done, loop, seen
from stages.finetune.batch import Draw, PixelBatch
from stages.finetune.network import Backbone, EndToEnd, Finetuned
from stages.finetune.run import Place, Result, run
from stages.finetune.seen import Rows, Seen
from stages.finetune.settings import FinetuneSettings
from stages.finetune.start import reads_of
from stages.finetune.tasks import task_of
from stages.heads.batch import HeadBatch
from stages.heads.margins import classifier
from stages.index.manifest import Manifest

FACE = "vgg19_44:face"
BASE: dict[str, Any] = {
    "backbone": FACE,
    "unit": "faces",
    "max_faces": 1,
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "augment": {"flip": True, "crop": "random"},
    "device": "cpu",
}
MODEL: dict[str, Any] = {"kind": "meen:model2", "dropout": 0.0, "options": {"width": 4, "features": "averaged"}}
FROZEN: dict[str, Any] = BASE | {"start": "finetune:facenet", "freeze": True, "head": MODEL}
TWICE = FROZEN | {"epochs": 2}
PIXELS: dict[str, Any] = BASE | {"start": "none", "head": {"kind": "meen:model3_emotion", "options": {"width": 4}}}


def settings(**said: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate(said)


def tune(corpus: Any, folder: Path, name: str, **said: Any) -> Result:
    """The twin of the first photo is for validation, d.png for the test; the sad ones are glad."""
    splits = {"twin.png": "val", "d.png": "test"}
    samples = tuple(
        replace(
            sample,
            split=splits.get(sample.sample_id, "train"),
            labels=("calm" if sample.labels == ("calm",) else "glad",),
        )
        for sample in corpus.manifest.samples
    )
    source = corpus.source(classes=("calm", "glad"))
    return run(Manifest(samples), source, settings(**said), Place(folder, name, folder / "weights"))


@pytest.fixture(scope="module")
def made(corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of fine-tunes with a face network, as such a one is written, and a model over it; and what came of
    that. The real thing is in tests/pipeline/test_finetune_meen.py."""
    folder = tmp_path_factory.mktemp("finetunes")
    net = build(FACE)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.rand(layer.num_features)
    file = checkpoint.save_parts(folder / "facenet", {"backbone": net}, {"backbone": FACE})["backbone"]
    photo = Rows.of([corpus.manifest.by_id["b.png"]])
    seen.write(file, Seen(seen.sha256_of(file), photo, Rows(), {}, None, ("face", "other"), 0, "random"))
    return folder, tune(corpus, folder, "whole", **TWICE)


@pytest.fixture(scope="module")
def facenet(made: tuple[Path, Result]) -> Path:
    """The folder of fine-tunes."""
    return made[0]


def stopped(patch: pytest.MonkeyPatch) -> None:
    """Stop after an epoch."""
    end = loop._Training.end_epoch

    def ended(self: Any, *sets: Any) -> None:
        end(self, *sets)
        raise KeyboardInterrupt

    patch.setattr(loop._Training, "end_epoch", ended)


def test_the_face_network_stays_and_the_head_is_trained(made: tuple[Path, Result]) -> None:
    facenet, whole = made
    assert whole.started == (
        f"{FACE} starts from fine-tune facenet, and is not trained",
        "the head is new, for 2 classes: that fine-tune had a last layer instead",
    )
    assert whole.seen.chain == (seen.sha256_of(facenet / "facenet" / "backbone.safetensors"),)
    assert whole.rows == {"train": 5, "val": 1}
    lacking = {s.sample_id for s, has in zip(whole.answers.samples, whole.answers.answered, strict=True) if not has}
    assert lacking == {"c.png"}, "it has no face"
    before, after = (load_file(facenet / name / "backbone.safetensors") for name in ("facenet", "whole"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before), "statistics of batch norm as well"
    about = read_about(facenet / "whole" / "head.safetensors")
    options = {"width": 4, "features": "averaged", "combine": "concatenate"}
    assert (about["options"], about["inputs"], about["widths"]) == (options, {"late": [512, 5, 5]}, [0, 0])
    assert done.differs(facenet / "whole", settings(**TWICE | {"freeze": False})).startswith("freeze was True")


def test_after_a_stop_it_goes_on_to_the_same_bits(
    corpus: Any, made: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    facenet, whole = made
    with monkeypatch.context() as patch:
        stopped(patch)
        with pytest.raises(KeyboardInterrupt):
            tune(corpus, facenet, "again", **TWICE)
    again = tune(corpus, facenet, "again", **TWICE)
    assert again.history.gone_on
    for part in ("backbone", "head"):
        one, two = (facenet / name / f"{part}.safetensors" for name in ("whole", "again"))
        assert one.read_bytes() == two.read_bytes()
    assert np.array_equal(again.answers.probabilities, whole.answers.probabilities)
    assert not tune(corpus, facenet, "again", **TWICE).trained


def test_a_head_goes_on_where_another_ended(corpus: Any, facenet: Path) -> None:
    after = FROZEN | {"start": "finetune:whole"}
    other = after | {"head": MODEL | {"options": MODEL["options"] | {"combine": "product"}}}
    source, files = corpus.source(classes=("calm", "glad")), {"backbone": facenet / "whole" / "backbone.safetensors"}
    network, said = task_of(source, settings(**after)).start(facenet, files)
    assert said[1] == "the head is kept from fine-tune whole"
    head = load_file(facenet / "whole" / "head.safetensors")
    assert all(torch.equal(head[name], value) for name, value in network.parts()["head"].state_dict().items())
    assert "its options was" in task_of(source, settings(**other)).start(facenet, files)[1][1]


def test_pixels_alone_need_no_network_below(corpus: Any, tmp_path: Path) -> None:
    result = tune(corpus, tmp_path, "pixels", **PIXELS)
    assert result.started == ("the head is new, for 2 classes",)
    assert {path.name for path in (tmp_path / "pixels").glob("*.s*")} == {"head.safetensors", "head.seen.json"}
    assert result.weights == tmp_path / "pixels" / "head.safetensors"
    assert result.answers.answered.sum() == len(result.answers.samples) - 1
    assert not tune(corpus, tmp_path, "pixels", **PIXELS).trained


def test_head_and_face_network_see_the_same_crop(corpus: Any, facenet: Path) -> None:
    """A place of the stored crop, mirrored or not, which changes with the epoch; without a draw the middle."""
    head: dict[str, Any] = {"kind": "meen:model3_separately", "options": {"width": 4}}
    task = task_of(corpus.source(), settings(**FROZEN | {"head": head}))
    network, _ = task.start(facenet, {"backbone": facenet / "facenet" / "backbone.safetensors"})
    assert isinstance(network, EndToEnd)
    assert network.faces is not None
    given: list[HeadBatch] = []
    inputs: list[Tensor] = []
    network.head.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    hook = network.faces.net.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    pixels = task.pixels(corpus.photos, varied=True)
    assert pixels.faces is not None
    crops = pixels.faces.crops
    stored = crops.read(np.arange(len(crops)))
    draws = (Draw(0, 0), Draw(0, 1), Draw(0, 2), None)
    with torch.inference_mode():
        for draw in draws:
            for batch in pixels.batches(np.arange(len(pixels)), len(pixels), draw):
                network.train()(batch)
    hook.remove()
    found = [places(one.inputs["pixels"][:, 0].numpy(), stored) for one in given]
    assert found[3] == [(2, 2, False)] * len(stored)
    assert all(len(set(of_epoch)) > 1 for of_epoch in found[:3])
    assert found[0] != found[1] != found[2]
    for one, image in zip(given, inputs, strict=True):
        assert torch.equal(preprocess(one.inputs["pixels"][:, 0], network.faces.spec), image)
        expected = network.faces.net(image)
        for name in ("early", "mid", "late"):
            assert torch.equal(one.inputs[name][:, 0], expected[name])
        assert torch.equal(one.masks["frame"], torch.ones(len(stored), 1, dtype=torch.bool))
        assert one.faces.shape == (len(stored), 1, 0)


def places(seen: np.ndarray, stored: np.ndarray) -> list[tuple[int, int, bool]]:
    """Top, left, and whether mirrored, of each 44x44 view in its crop of 48x48."""
    out = []
    for view, crop in zip(seen, stored, strict=True):
        fitting = [
            (top, left, mirrored)
            for mirrored in (False, True)
            for top in range(5)
            for left in range(5)
            if np.array_equal(view[:, ::-1] if mirrored else view, crop[top : top + 44, left : left + 44])
        ]
        assert len(fitting) == 1
        out += fitting
    return out


def test_nothing_of_a_frozen_backbone_moves_or_is_given_to_the_optimiser() -> None:
    spec = get_spec("mini_xception")
    below = Backbone(build("mini_xception"), spec, spec.taps[0], freeze=True)
    network = Finetuned(below, classifier("softmax", below.width, 2), "face", ("a", "b")).train()
    assert not any(layer.training for layer in below.modules())
    assert not below.needs_two
    assert network.groups()[0] == []
    before = {name: value.clone() for name, value in below.state_dict().items()}
    noise = torch.randint(0, 256, (3, *spec.input_size, 3), dtype=torch.uint8)
    rows = torch.arange(3)
    batch = PixelBatch(noise, rows, noise[:0], rows % 2, rows, torch.zeros(3, 4))
    optimiser = torch.optim.SGD([{"params": group} for group in network.groups()], 0.1, 0.9, weight_decay=0.5)
    last = network.last_layer.state_dict()["weight"].clone()
    nn.functional.cross_entropy(network(batch), batch.labels).backward()
    optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in below.state_dict().items())
    assert all(parameter.grad is None for parameter in below.parameters())
    assert not torch.equal(last, network.last_layer.state_dict()["weight"])


def test_a_single_input_is_the_tap_that_is_chosen() -> None:
    head = {"kind": "aminbeidokhti2019:attention", "options": {}}
    clips = BASE | {"backbone": "vgg_face", "start": "weights", "head": head, "augment": {}}
    for tap, found in ((None, get_spec("vgg_face").taps[0]), ("conv5_3", None)):
        [read] = reads_of(settings(**clips | {"tap": tap})).values()
        assert read is not None
        assert read.name == tap if found is None else read == found


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (FROZEN | {"max_faces": 2}, "max_faces is 2, and head meen:model2 reads one face a frame: use 1"),
        (FROZEN | {"start": "none", "freeze": False}, "start is none, and head meen:model2 reads late: say where"),
        (
            PIXELS | {"start": "random"},
            "head meen:model3_emotion reads pixels and nothing of a network: use start: none",
        ),
        (PIXELS | {"head": {"kind": "gupta2018:faces"}}, "start is none, and head gupta2018:faces reads vectors"),
        (FROZEN | {"tap": "mid"}, "tap is mid, and head meen:model2 reads late by name: leave tap out"),
        (FROZEN | {"head": {"kind": "dagnet:bam"}}, "head dagnet:bam reads persons, which no network here sees"),
        (
            FROZEN | {"backbone": "mini_xception", "head": {"kind": "meen:model3_facial"}},
            r"reads early \(map\), and mini_xception has .*: use another backbone",
        ),
        (FROZEN | {"head": MODEL | {"options": {"width": 0}}}, r"options\.width of head meen:model2"),
        (FROZEN | {"head": MODEL | {"options": {"depth": 1}}}, r"options\.depth of head meen:model2: .* it has width"),
        (
            FROZEN | {"backbone": "torchvision:resnet18", "unit": "photo"},
            "unit is photo, and head meen:model2 reads faces: use unit faces",
        ),
    ],
)
def test_what_cannot_be(corpus: Any, said: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        task_of(corpus.source(), settings(**said))


def test_pixels_of_another_size_are_refused(corpus: Any, tmp_path: Path) -> None:
    said = PIXELS | {"backbone": "mini_xception", "augment": {}}
    with pytest.raises(SettingError, match=r"head meen:model3_emotion sees faces of \(44, 44, 3\) or \(48, 48, 3\)"):
        task_of(corpus.source(), settings(**said)).start(tmp_path, {})
