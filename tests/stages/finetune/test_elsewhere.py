"""Fine-tunes that start from another project's, by its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.errors import DataError, MissingInputError, SettingError, WeightsError
from stages.finetune import seen
from stages.finetune.folds import run_folds
from stages.finetune.run import Place, Result, run
from stages.finetune.settings import FinetuneSettings
from stages.index.manifest import Manifest

VALUES: dict[str, Any] = {
    "backbone": "mini_xception",
    "unit": "face",
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.01,
    "device": "cpu",
}
CLASSES = ("calm", "glad")
FROM = "folder:../other/artifacts/finetune/first"


@pytest.fixture
def halves(corpus: Any) -> tuple[Any, Any]:
    """The data sets of two projects: photos of two classes, and others of them."""
    samples = [replace(s, labels=("glad",) if s.labels == ("sad",) else s.labels) for s in corpus.manifest.samples]
    mine = {"a.png", "b.png", "twin.png"}
    return tuple(
        replace(corpus, manifest=Manifest(tuple(s for s in samples if (s.sample_id in mine) == inside)))
        for inside in (True, False)
    )  # pyright: ignore[reportReturnType]


def place_of(project: Path, name: str) -> Place:
    project.mkdir(exist_ok=True)
    return Place(project / "artifacts" / "finetune", name, project / "weights", lambda path: project / path)


def tune(corpus: Any, project: Path, name: str, **changes: Any) -> Result:
    settings = FinetuneSettings.model_validate(VALUES | changes)
    return run(corpus.manifest, corpus.source(classes=CLASSES), settings, place_of(project, name))


def test_it_goes_on_with_the_network_its_last_layer_and_what_it_has_seen(
    halves: tuple[Any, Any], tmp_path: Path
) -> None:
    one, other = halves
    first = tune(other, tmp_path / "other", "first", start="random")
    found = tune(one, tmp_path / "main", "second", start=FROM + "/")
    assert found.started == (
        "mini_xception starts from fine-tune ../other/artifacts/finetune/first",
        "the last layer is kept from fine-tune ../other/artifacts/finetune/first",
    )
    known, before = seen.read(found.weights), seen.read(first.weights)
    assert known.chain == (before.weights,)
    assert before.trained.contents < known.trained.contents
    assert known.start == FROM
    near = tune(one, tmp_path / "other", "near", start="finetune:first")
    assert near.weights.read_bytes() == found.weights.read_bytes(), "the same as within a project"
    assert not tune(one, tmp_path / "main", "second", start=FROM).trained
    tune(other, tmp_path / "other", "first", start="random", seed=5)
    assert tune(one, tmp_path / "main", "second", start=FROM).trained, "the other one is another now"


def test_folds_go_on_from_the_same_fold_and_never_from_what_has_seen_theirs(
    halves: tuple[Any, Any], tmp_path: Path
) -> None:
    one, other = halves
    source = one.source(classes=CLASSES)
    settings = FinetuneSettings.model_validate(VALUES | {"start": "random"})
    more = replace(one, manifest=Manifest((*one.manifest.samples, *other.manifest.samples)))
    run_folds(more.manifest, source, settings, place_of(tmp_path / "other", "first"), 2)
    after = settings.model_copy(update={"start": FROM})
    found = run_folds(more.manifest, source, after, place_of(tmp_path / "main", "second"), 2)
    for fold, result in enumerate(found.results):
        folder = tmp_path / "other" / "artifacts" / "finetune" / f"first.fold{fold}"
        assert result.seen.chain == (seen.sha256_of(folder / "backbone.safetensors"),)
        assert result.started[0].endswith(f"from fine-tune ../other/artifacts/finetune/first.fold{fold}")
    with pytest.raises(MissingInputError, match=r"first/backbone\.safetensors is not there, and start is folder:"):
        tune(one, tmp_path / "main", "third", start=FROM)
    run(more.manifest, source, settings, place_of(tmp_path / "other", "whole"))
    after = settings.model_copy(update={"start": FROM.replace("first", "whole")})
    with pytest.raises(DataError, match=r"fine-tune whole, from which fourth\.fold0 would start, has seen"):
        run_folds(more.manifest, source, after, place_of(tmp_path / "main", "fourth"), 2)


def test_what_cannot_be_started_from(halves: tuple[Any, Any], tmp_path: Path) -> None:
    one, other = halves
    tune(other, tmp_path / "other", "first", start="random")
    with pytest.raises(WeightsError, match=r"is of mini_xception, and finetune\.second\.start wants resnet_small:18"):
        tune(one, tmp_path / "main", "second", start=FROM, backbone="resnet_small:18")
    with pytest.raises(SettingError, match=r"a fine-tune of this project: use finetune:first$"):
        tune(one, tmp_path / "other", "second", start=FROM)
    with pytest.raises(MissingInputError, match=r"name a fine-tune's folder, or run kuleshov finetune none in the"):
        tune(one, tmp_path / "main", "second", start="folder:../other/artifacts/finetune/none")
    found = tune(one, tmp_path / "main", "second", start=FROM, classifier={"kind": "a_softmax"}, keep_last=False)
    assert found.started[1] == "the last layer is new, for 2 classes"
    with pytest.raises(SettingError, match=r"keep_last is true, but the last layer of \.\./other/.* does not fit"):
        tune(one, tmp_path / "main", "third", start=FROM, classifier={"kind": "a_softmax"}, keep_last=True)


@pytest.mark.parametrize("start", ["folder:", "folder:/data/first", "folder: first", r"folder:..\other\first"])
def test_a_folder_is_a_relative_path(start: str) -> None:
    with pytest.raises(ValueError, match=r"give the fine-tune's folder relative to the project, as folder:\.\./a/b"):
        FinetuneSettings.model_validate(VALUES | {"start": start})


def test_each_network_finds_its_own_file(tmp_path: Path) -> None:
    """That of whole photos is the second one of a fine-tune that has two."""
    settings = FinetuneSettings.model_validate(
        VALUES
        | {"unit": "faces", "start": FROM, "head": {"kind": "gupta2018:attention_c"}}
        | {"photos": {"backbone": "torchvision:resnet18", "start": FROM.replace("first", "both")}}
    )
    assert settings.from_folders == (
        ("mini_xception", "../other/artifacts/finetune/first"),
        ("torchvision:resnet18", "../other/artifacts/finetune/both"),
    )
    assert (settings.from_finetunes, settings.from_catalogue, settings.photos is not None) == ((), (), True)
    place, other = place_of(tmp_path / "main", "joint"), tmp_path / "main" / "../other/artifacts/finetune"
    assert place.weights_before(settings) == other / "first" / "backbone.safetensors"
    for name in ("backbone", "photos"):  # before the second file is there, and when it is
        assert settings.photos is not None
        assert place.weights_before(settings.photos) == other / "both" / f"{name}.safetensors"
        assert place.weights_before(settings.photos, 1) == other / "both.fold1" / "backbone.safetensors"
        (tmp_path / "other" / "artifacts" / "finetune" / "both").mkdir(parents=True, exist_ok=True)
        (tmp_path / "other" / "artifacts" / "finetune" / "both" / "photos.safetensors").touch()
