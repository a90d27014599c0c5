from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline import params
from pipeline.scaffold.write import DEMO, ProjectData, files

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml"])
def test_the_repository_s_own_project_is_what_init_writes(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == files(DEMO)[name]


def test_every_setting_of_params_is_a_dependency_of_some_stage() -> None:
    stages = yaml.safe_load(files(DEMO)["dvc.yaml"])["stages"]
    used = {p.split(".")[0] for s in stages.values() for p in s.get("do", s).get("params", [])}
    assert used == set(params.Params.model_fields)


def test_every_stage_is_a_command() -> None:
    from pipeline.cli import COMMANDS

    stages = yaml.safe_load(files(DEMO)["dvc.yaml"])["stages"]
    for name, stage in stages.items():
        assert stage.get("do", stage)["cmd"].split()[:2] == ["kuleshov", name]
        assert name in COMMANDS


def test_no_two_stages_own_one_out() -> None:
    stages = yaml.safe_load(files(DEMO)["dvc.yaml"])["stages"]
    outs = [o if isinstance(o, str) else next(iter(o)) for s in stages.values() for o in s.get("do", s).get("outs", [])]
    assert len(outs) == len(set(outs))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label in ("calm", "glad"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (40, 30), "grey").save(tmp_path / "photos" / label / "a.png")
    return tmp_path / "photos"


def test_init_makes_a_project_that_dvc_reads(kuleshov: Run, tmp_path: Path, photos: Path) -> None:
    place = tmp_path / "mein Projekt ü"
    status, out, err = kuleshov("init", place, "--adapter", "folder", "--root", photos)
    assert (status, err) == (0, "")
    assert "dvc repro" in out
    assert (place / ".git").is_dir()
    config = (place / ".dvc" / "config").read_text()
    assert "analytics = false" in config
    done = subprocess.run(["dvc", "stage", "list"], cwd=place, capture_output=True, text=True, check=True)
    assert "extract@effnet_lite0" in done.stdout
    assert params.load(place).data.root == str(photos)


def test_init_over_a_published_data_set(kuleshov: Run, tmp_path: Path) -> None:
    from stages.index.standins import gaf

    gaf.write(tmp_path / "GAF", gaf.Sizes(train=3, val=6, test=0), 0)
    status, _, err = kuleshov("init", tmp_path / "p", "--adapter", "gaf", "--root", tmp_path / "GAF")
    assert (status, err) == (0, "")
    made = tmp_path / "p" / "params.yaml"
    assert params.load(tmp_path / "p").data.adapter == "gaf"
    made.write_text(made.read_text().replace("options: {} ", "options: {evaluation: 3} "))
    status, out, err = kuleshov("-C", tmp_path / "p", "index")
    assert (status, err) == (0, "")
    assert "9 samples (train 3, val 3, test 3), 3 classes" in out
    status, _, err = kuleshov("init", tmp_path / "q", "--adapter", "gaf", "--root", tmp_path, "--images", tmp_path)
    assert status == 1
    assert "belong to --adapter csv" in err


def test_init_inside_a_repository_uses_it(kuleshov: Run, tmp_path: Path, photos: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    status, _, err = kuleshov("init", tmp_path / "sub", "--adapter", "folder", "--root", photos)
    assert (status, err) == (0, "")
    assert not (tmp_path / "sub" / ".git").exists()
    assert (tmp_path / "sub" / ".dvc").is_dir()


def test_a_root_inside_the_project_is_relative(kuleshov: Run, tmp_path: Path, photos: Path) -> None:
    kuleshov("init", tmp_path, "--adapter", "folder", "--root", photos)
    assert params.load(tmp_path).data.root == "photos"


def test_init_never_overwrites(kuleshov: Run, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "params.yaml").write_text("mine: 1\n")
    status, _, err = kuleshov("init", tmp_path, "--adapter", "folder", "--root", photos)
    assert status == 1
    assert "already has params.yaml" in err
    assert (tmp_path / "params.yaml").read_text() == "mine: 1\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--adapter", "folder", "--root", "nowhere"], "no such folder"),
        (["--adapter", "csv", "--root", "nowhere.csv"], "no such file"),
        (["--adapter", "csv", "--root", "t.csv", "--column", "label"], "OURS=THEIRS"),
        (["--adapter", "csv", "--root", "t.csv", "--column", "label=a", "--column", "label=b"], "given twice"),
        (["--adapter", "folder", "--root", "photos", "--column", "label=a"], "belong to --adapter csv"),
    ],
)
def test_bad_arguments_are_one_line(
    kuleshov: Run, tmp_path: Path, photos: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "t.csv").write_text("path,label\n")
    status, _, err = kuleshov("-C", tmp_path, "init", "new", *arguments)
    assert status == 1
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_names_with_quotes_and_other_scripts_survive(kuleshov: Run, tmp_path: Path) -> None:
    root = tmp_path / 'pho\'tos "x" 😀 感情'
    (root / "calm").mkdir(parents=True)
    status, _, err = kuleshov("init", tmp_path / "p", "--adapter", "folder", "--root", root)
    assert (status, err) == (0, "")
    assert params.load(tmp_path / "p").data.root == str(root)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (ProjectData("folder", "photos"), "/photos/"),
        (ProjectData("csv", "data/labels.csv"), "/data/"),
        (ProjectData("csv", "labels.csv", images="faces"), "/faces/"),
        (ProjectData("csv", "labels.csv"), None),
        (ProjectData("folder", "/elsewhere/photos"), None),
    ],
)
def test_photos_inside_a_project_stay_out_of_git(data: ProjectData, line: str | None) -> None:
    ignored = [rule for rule in files(data)[".gitignore"].splitlines() if not rule.startswith("#")]
    assert ignored == [".venv/", "/dvc_plots/", "/artifacts/timings/", "/artifacts/check/", *([line] if line else [])]
