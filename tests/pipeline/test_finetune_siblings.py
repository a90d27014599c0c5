"""Fine-tunes beside each other: without a subset, answered in several ways, or from another project's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.keys import stage_keys
from pipeline.params import parse
from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from stages.backbones.weights import hash_file
from stages.errors import SettingError
from stages.index.drawn.scenes import draw_scene
from stages.predictions import read as read_predictions

Run = Callable[..., tuple[int, str, str]]
TUNED = {"backbone": "mini_xception", "start": "random", "unit": "face", "epochs": 1, "batch_size": 4, "device": "cpu"}


def make(folder: Path, seed: int, **finetune: Any) -> Path:
    """A project of ten drawn scenes, each of which is a face; the last two of split train are of subset `web`."""
    rows = ["path,label,split,subset"]
    for index in range(10):
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        draw_scene(seed, index).image.resize((160, 120)).save(folder / "photos" / f"{index}.png")
        split, subset = ("test" if index > 7 else "train"), ("web" if index in (6, 7) else "")
        rows.append(f"{index}.png,{('calm', 'glad')[index % 2]},{split},{subset}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    values = yaml.safe_load(files(ProjectData("csv", "labels.csv", images="photos"))["params.yaml"])
    values["detect"]["faces"] = "whole"
    values["finetune"] = {name: TUNED | {"learning_rate": 0.01} | one for name, one in finetune.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def change(folder: Path, **changes: Any) -> None:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def finetunes(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "params.yaml").read_text())["finetune"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))


def said_by(kuleshov: Run, folder: Path, *command: str) -> str:
    status, said, err = kuleshov("-C", folder, *command)
    assert (status, err) == (0, ""), (command, err)
    return said


def test_answers_of_one_training_and_a_part_left_out(tmp_path: Path, kuleshov: Run) -> None:
    folder = make(tmp_path / "main", 3, whole={}, less={"leave_out": ["web"]}, **{"whole.b": {"seed": 1}})
    for command in ("index", "detect", "align"):
        said_by(kuleshov, folder, command)
    said = said_by(kuleshov, folder, "finetune")
    assert "2 training samples of subset web left out" in said
    assert "not seen: test 0.500 (n = 2), train " in said, "what is left out is held out"
    place = folder / "artifacts" / "predictions" / "finetuned"
    plain = {path.stem: path.read_bytes() for path in place.glob("*.csv")}
    assert set(plain) == {"less-s0", "whole-s0", "whole.b-s1"}
    tuned = finetunes(folder)
    tuned["whole"]["answers"] = {"both": {"mirrored": True}, "top3": {"largest": 3, "of": "logits"}}
    change(folder, finetune=tuned)
    said = said_by(kuleshov, folder, "finetune", "whole")
    assert "finetune whole: trained before (1 epochs)" in said
    assert "  answer both: accuracy of samples that were not seen: test " in said
    made = {path.stem: read_predictions(path) for path in place.glob("*.csv")}
    assert set(made) == {*plain, "whole.both-s0", "whole.top3-s0"}
    assert all((place / f"{name}.csv").read_bytes() == before for name, before in plain.items())
    assert (made["whole.both-s0"].head, made["whole.both-s0"].seed) == ("whole.both", 0)
    assert np.abs(made["whole.both-s0"].probabilities - made["whole-s0"].probabilities).max() > 1e-7
    np.testing.assert_allclose(made["whole.top3-s0"].probabilities, made["whole-s0"].probabilities, atol=1e-6)
    for name in ("whole.both-s0", "whole-s0"):
        assert made[name].seen.tolist() == [True] * 8 + [False] * 2
    assert made["less-s0"].seen.tolist() == [True] * 6 + [False] * 4
    ensembles = {"together": {"members": ["whole.both", "less"], "weights": [3, 1]}}
    head = {"kind": "tan2017:global", "faces": [], "global": ["effnet_lite0/pooled"], "epochs": 1}
    change(
        folder,
        fuse={"ensembles": ensembles},
        extract={"backbones": {"effnet_lite0": {"taps": ["pooled"]}}},
        train={"seeds": [0], "heads": {"photo": head, "photo_less": head | {"leave_out": ["web"]}}},
    )
    for command in ("index", "extract", "train", "fuse", "evaluate", "report"):
        said = said_by(kuleshov, folder, command)
        if command == "train":
            assert ", left out " in said.split("photo_less-s0")[1]
            assert "left out" not in said.split("photo_less-s0")[0]
        if command == "evaluate":
            assert {line.split(":")[0].strip() for line in said.splitlines()} >= {"whole.both", "less", "together"}
    fused = read_predictions(folder / "artifacts" / "predictions" / "fused" / "together.csv").probabilities
    expected = (3 * made["whole.both-s0"].probabilities + made["less-s0"].probabilities) / 4
    np.testing.assert_allclose(fused, expected, atol=1e-6)
    assert "whole.both" in (folder / "artifacts" / "report.html").read_text()
    del tuned["whole"]["answers"]["both"]
    change(folder, finetune=tuned, fuse={"ensembles": {}})
    said_by(kuleshov, folder, "finetune", "whole")
    assert {path.stem for path in place.glob("*.csv")} == {*plain, "whole.top3-s0"}
    said_by(kuleshov, folder, "finetune", "whole", "--folds", "2")
    folded = read_predictions(place / "whole.top3-s0.csv")
    np.testing.assert_allclose(folded.probabilities, read_predictions(place / "whole-s0.csv").probabilities, atol=1e-6)
    assert not folded.seen.any()


@pytest.mark.parametrize(
    ("finetune", "more", "said"),
    [
        ({"a": {"answers": {"b": {"mirrored": True}}}, "a.b": {}}, {}, "finetune.a.answers.b and fine-tune 'a.b' have"),
        ({"a": {"answers": {"b": {}}}}, {}, "answers.b is the same as answer: leave it out"),
        (
            {"a": {"unit": "photo", "backbone": "effnet_lite0", "answers": {"b": {"of": "logits"}}}},
            {},
            "answers.b is the same as answer: leave it out",
        ),
        ({"a": {"answers": {"fold0": {"mirrored": True}}}}, {}, "ends as the name of a fold or of one seed's member"),
        ({"a": {"answers": {"b.c": {"mirrored": True}}}}, {}, "finetune.a.answers.b.c"),
        (
            {"a": {"answers": {"b": {"mirrored": True}}}},
            {"fuse": {"ensembles": {"a.b": {"members": ["a"]}}}},
            "ensemble fuse.ensembles.a.b and fine-tune finetune.a.b have the same name",
        ),
    ],
)
def test_names_that_clash(finetune: Any, more: Any, said: str) -> None:
    values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"]) | more
    values["finetune"] = {name: TUNED | {"learning_rate": 0.01} | one for name, one in finetune.items()}
    with pytest.raises(SettingError, match=re.escape(said)):
        parse(values, "params.yaml")


def test_weights_in_the_projects_own_folder_are_a_dependency(tmp_path: Path) -> None:
    folder = make(tmp_path / "main", 3, next={"start": "folder:."})
    (folder / "backbone.safetensors").write_bytes(b"weights")
    expected = [("folder:./backbone.safetensors", hash_file(folder / "backbone.safetensors"))]
    assert stage_keys(Project(folder))["finetune"] == expected


@pytest.mark.parametrize("folds", [None, 2])
@pytest.mark.parametrize("folder", ["artifacts/finetune/own", "../main/artifacts/finetune/own/"])
def test_a_role_of_an_own_fine_tune_names_it(tmp_path: Path, folder: str, folds: int | None) -> None:
    """By its folder, DVC would not know that it is trained before the features are computed."""
    main = make(tmp_path / "main", 3, own={"folds": folds})
    role = {"backbone": "mini_xception", "finetuned": f"folder:{folder}", "taps": ["feature"], "folds": folds}
    change(main, extract={"backbones": {"tuned": role}})
    with pytest.raises(SettingError, match=r"^extract\.backbones\.tuned\.finetuned is folder:.*/own, .*: use own$"):
        stage_keys(Project(main))


def test_another_projects_fine_tune_is_a_dependency(tmp_path: Path, kuleshov: Run) -> None:
    other = make(tmp_path / "other", 4, base={})
    start = "folder:../other/artifacts/finetune/base"
    main = make(tmp_path / "main", 3, next={"start": start})
    keys = main / "artifacts" / "keys" / "finetune.csv"
    for command in ("index", "detect", "align"):
        said_by(kuleshov, main, command)
    assert keys.read_text() == f"block,key\n{start},unknown\n"
    status, _, err = kuleshov("-C", main, "finetune")
    assert status == 1
    assert "run kuleshov finetune base in the project that it is of" in err
    for command in ("index", "detect", "align", "finetune"):
        said_by(kuleshov, other, command)
    weights = other / "artifacts" / "finetune" / "base" / "backbone.safetensors"
    said_by(kuleshov, main, "index")
    assert keys.read_text() == f"block,key\n{start}/backbone.safetensors,{hash_file(weights)}\n"
    assert "mini_xception starts from fine-tune ../other/artifacts/finetune/base" in said_by(kuleshov, main, "finetune")
    assert "trained before" in said_by(kuleshov, main, "finetune")
    change(other, finetune={"base": finetunes(other)["base"] | {"seed": 1}})
    said_by(kuleshov, other, "finetune")
    said_by(kuleshov, main, "index")
    assert keys.read_text() == f"block,key\n{start}/backbone.safetensors,{hash_file(weights)}\n"
    assert "trained before" not in said_by(kuleshov, main, "finetune")
    shutil.copytree(other / "artifacts" / "finetune" / "base", other / "artifacts" / "finetune" / "base.fold1")
    change(main, finetune={"next": finetunes(main)["next"] | {"folds": 2}})
    said_by(kuleshov, main, "index")
    lines = keys.read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in lines] == [
        f"{start}.fold1/backbone.safetensors",
        f"{start}/backbone.safetensors",
    ]


def test_a_role_of_another_projects_fine_tune(tmp_path: Path, kuleshov: Run) -> None:
    other = make(tmp_path / "other", 4, base={})
    for command in ("index", "detect", "align", "finetune"):
        said_by(kuleshov, other, command)
    weights = other / "artifacts" / "finetune" / "base" / "backbone.safetensors"
    start = "folder:../other/artifacts/finetune/base"
    main = make(tmp_path / "main", 3)
    role = {"backbone": "mini_xception", "finetuned": start, "taps": ["feature"]}
    head = {"kind": "gupta2018:faces", "faces": ["tuned/feature"], "global": [], "epochs": 1}
    change(
        main,
        extract={"backbones": {"tuned": role}},
        train={"seeds": [0], "heads": {"one": head}},
        fuse={"ensembles": {}},
    )
    of_role = main / "artifacts" / "keys" / "extract" / "tuned.csv"
    for command in ("index", "detect", "align", "extract"):
        said_by(kuleshov, main, command)
    known = of_role.read_text()
    assert "unknown" not in known
    assert known.split(",")[-1][:32] in (main / "artifacts" / "blocks" / "extract" / "tuned.csv").read_text()
    said_by(kuleshov, main, "train")
    assert not list((main / "artifacts" / "predictions" / "heads" / "seen").glob("*")), "other photos"
    data = yaml.safe_load((main / "params.yaml").read_text())["data"]
    change(main, data=data | {"root": "../other/labels.csv", "images": "../other/photos"}, evaluate={"split": "train"})
    for command in ("index", "detect", "align", "extract"):
        said_by(kuleshov, main, command)
    status, _, err = kuleshov("-C", main, "train")
    assert status == 1
    assert f"fine-tune {start} of extract.backbones.tuned has seen 8 of the 8 samples of split train" in err
    weights.rename(weights.with_name("away.safetensors"))
    said_by(kuleshov, main, "index")
    assert of_role.read_text() == "block,key\nunknown,unknown\n"
    status, _, err = kuleshov("-C", main, "extract")
    assert status == 1
    assert "run kuleshov finetune base in the project that it is of" in err
