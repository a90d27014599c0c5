from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.params import FILE, load
from pipeline.reproduce.projects import SERVES, jobs_of, notes_of, own_settings, require_kind, roots_of, write_job
from pipeline.reproduce.recipe import load as load_recipe
from pipeline.reproduce.standins import STAND_INS
from stages.errors import DataError, SettingError


def quiet(_: str) -> None:
    pass


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def second(tiny: Path) -> Path:
    """A further recipe of the same projects, which needs the first's other fine-tune."""
    text = (tiny / "tiny.yaml").read_text().replace("project: tiny-second", "project: tiny-first")
    text = text[: text.index("rows:")].replace("[tiny-first, tiny-second]", "[tiny-first]")
    (tiny / "further.yaml").write_text(text + "rows:\n  - {name: Unused, of: {member: unused}}\n")
    return tiny


def test_a_start_in_another_project_is_needed_there(tiny: Path) -> None:
    first, other = jobs_of("tiny", small=False)
    assert (first.name, other.name) == ("tiny-first", "tiny-second")
    assert list(first.settings["finetune"]) == ["net"]
    assert first.settings["finetune"]["net"] == {"preset": "tan-nonaligned-scratch"}
    assert list(other.settings["fuse"]["ensembles"]) == ["both"]
    small, _ = jobs_of("tiny", small=True)
    assert small.settings["finetune"]["net"]["backbone"] == "narrow:resnet34_48"
    assert list(first.data_sets) == ["fer2013"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("[tiny-first, tiny-second]", "[tiny-second]"), ("[tiny-first, tiny-second]", "[tiny-second, tiny-first]")],
)
def test_what_a_project_starts_from_is_run_before_it(tiny: Path, old: str, new: str) -> None:
    edit(tiny / "tiny.yaml", old, new)
    with pytest.raises(
        SettingError, match=r"^recipe tiny: project tiny-second starts from tiny-first: name that before"
    ):
        jobs_of("tiny", small=False)


def test_a_removal_of_nothing_names_the_file(tiny: Path) -> None:
    edit(tiny / "projects" / "tiny-first.yaml", "  settings:\n", "  settings:\n    fuse: !remove\n")
    jobs_of("tiny", small=False)
    with pytest.raises(SettingError, match=r"^recipes/projects/tiny-first\.yaml\.fuse is !remove"):
        jobs_of("tiny", small=True)


def test_what_two_projects_say_of_a_trial_is_there_once(tiny: Path) -> None:
    jobs = jobs_of("tiny", small=True)
    assert notes_of(load_recipe("tiny"), jobs) == ["faces of people who are not there", "fourteen drawn faces"]


def test_given_roots_are_absolute(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    found = roots_of(jobs_of("tiny", small=False), {"fer2013": Path("data")}, tmp_path / "out", quiet, small=False)
    assert found == {name: {"fer2013": tmp_path / "data"} for name in ("tiny-first", "tiny-second")}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "small", "kind", "problem"),
    [
        (
            {},
            False,
            SettingError,
            r"^give the data sets: --root fer2013=DIR \(FER2013\)\. kuleshov reproduce show",
        ),
        ({"fer": "."}, False, SettingError, "^--root fer: this recipe reads fer2013$"),
        ({"fer2013": "none"}, False, DataError, "^--root fer2013=none: there is no such folder$"),
        ({"fer2013": "."}, True, SettingError, "^--root fer2013 and --small: a trial reads drawn stand-ins; leave one"),
    ],
)
def test_roots_that_are_not_right(
    tiny: Path, tmp_path: Path, given: dict[str, str], small: bool, kind: type[Exception], problem: str
) -> None:
    roots = {name: Path(root) for name, root in given.items()}
    with pytest.raises(kind, match=problem):
        roots_of(jobs_of("tiny", small=small), roots, tmp_path / "out", quiet, small=small)


def test_the_stand_ins_of_two_projects_are_as_they_say(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = roots_of(jobs_of("tiny", small=True), {}, tmp_path, said.append, small=True)
    one, other = (found[name]["fer2013"] for name in ("tiny-first", "tiny-second"))
    assert one != other
    assert len((other / "fer2013.csv").read_text().splitlines()) == 1 + 14 + 7 + 14
    assert len(said) == 2
    assert roots_of(jobs_of("tiny", small=True), {}, tmp_path, said.append, small=True) == found
    assert len(said) == 2


def test_a_project_is_written_whole(tiny: Path, tmp_path: Path) -> None:
    (job, _) = jobs_of("tiny", small=False)
    here = write_job(job, "tiny", {"fer2013": tmp_path}, tmp_path / "out", small=False)
    assert here == tmp_path / "out" / "tiny-first"
    params = load(here)
    assert params.data.root == str(tmp_path)
    assert (here / FILE).read_text().startswith("# Written by kuleshov reproduce for tiny.\n")
    assert set(yaml.safe_load((here / FILE).read_text())) >= {"max_failures", "evaluate", "report", "fuse"}
    assert json.loads((here / SERVES).read_text()) == ["tiny"]
    assert "/reproduce.log" in (here / ".gitignore").read_text().splitlines()
    assert (here / ".dvc" / "config").exists()


def test_one_that_was_killed_half_way_is_finished(tiny: Path, tmp_path: Path) -> None:
    (job, _) = jobs_of("tiny", small=False)
    here = tmp_path / "tiny-first"
    (here / ".dvc").mkdir(parents=True)
    (here / "dvc.yaml").touch()
    write_job(job, "tiny", {"fer2013": tmp_path}, tmp_path, small=False)
    assert (here / ".dvc" / "config").exists()
    assert "stages:" in (here / "dvc.yaml").read_text()
    (here / "mine").touch()
    config = (here / ".dvc" / "config").read_bytes()
    write_job(job, "tiny", {"fer2013": tmp_path}, tmp_path, small=False)
    assert (here / "mine").exists()
    assert (here / ".dvc" / "config").read_bytes() == config


def test_recipes_share_a_project(second: Path, tmp_path: Path) -> None:
    roots = {"fer2013": tmp_path}
    (first, _) = jobs_of("tiny", small=False)
    (further,) = jobs_of("further", small=False)
    write_job(first, "tiny", roots, tmp_path, small=False)
    here = write_job(further, "further", roots, tmp_path, small=False)
    both = yaml.safe_load((here / FILE).read_text())
    assert set(both["finetune"]) == {"net", "unused"}
    assert (here / FILE).read_text().startswith("# Written by kuleshov reproduce for further, tiny.\n")
    write_job(first, "tiny", roots, tmp_path, small=False)
    assert yaml.safe_load((here / FILE).read_text()) == both, "nothing to run again"
    (second / "further.yaml").unlink()
    write_job(first, "tiny", roots, tmp_path, small=False)
    assert set(yaml.safe_load((here / FILE).read_text())["finetune"]) == {"net"}, "a recipe that is no more"


def test_settings_that_are_not_fit_name_recipe_and_project(tiny: Path, tmp_path: Path) -> None:
    edit(tiny / "projects" / "tiny-first.yaml", "faces: whole", "fases: whole")
    (job, _) = jobs_of("tiny", small=False)
    with pytest.raises(SettingError, match=r"^recipe tiny, project tiny-first: unknown key 'detect\.fases'"):
        write_job(job, "tiny", {"fer2013": tmp_path}, tmp_path, small=False)
    assert not (tmp_path / "tiny-first").exists()


def test_trials_and_runs_on_data_sets_are_kept_apart(tmp_path: Path) -> None:
    for small in (False, True):
        require_kind(tmp_path, small=small)
    whole, drawn = tmp_path / "whole", tmp_path / "drawn"
    (whole / "tiny-first").mkdir(parents=True)
    (whole / "tiny-first" / SERVES).write_text('["tiny"]')
    (drawn / STAND_INS).mkdir(parents=True)
    require_kind(whole, small=False)
    require_kind(drawn, small=True)
    with pytest.raises(SettingError, match=r"has trials, made with --small: give another --to$"):
        require_kind(drawn, small=False)
    with pytest.raises(SettingError, match=r"has projects made without --small: give another --to$"):
        require_kind(whole, small=True)


def test_a_person_s_settings_win_and_leave_the_recipe_s_alone(tiny: Path, tmp_path: Path) -> None:
    recipe, (job, _) = load_recipe("tiny"), jobs_of("tiny", small=False)
    own = own_settings(["tiny-first.data.options={}", "tiny-first.finetune.net.epochs=3"], recipe)
    assert own == {"tiny-first": {"data": {"options": {}}, "finetune": {"net": {"epochs": 3}}}}
    here = write_job(job, "tiny", {"fer2013": tmp_path}, tmp_path / "a", small=False, own=own["tiny-first"])
    written = yaml.safe_load((here / FILE).read_text())
    assert written["finetune"]["net"] == {"preset": "tan-nonaligned-scratch", "epochs": 3}
    assert job.settings["finetune"]["net"] == {"preset": "tan-nonaligned-scratch"}
    with pytest.raises(SettingError, match="unknown key"):
        write_job(job, "tiny", {"fer2013": tmp_path}, tmp_path / "b", small=False, own={"dato": 1})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("tiny-first.data", "write PROJECT.KEY=VALUE"),
        ("tiny-first=1", "write PROJECT.KEY=VALUE"),
        ("tiny-first..data=1", "write PROJECT.KEY=VALUE"),
        ("third.data=1", "the recipe's projects are tiny-first, tiny-second"),
        ("tiny-first.data=[1", "the value is no YAML"),
    ],
)
def test_a_setting_that_cannot_be_read(tiny: Path, told: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        own_settings([told], load_recipe("tiny"))
