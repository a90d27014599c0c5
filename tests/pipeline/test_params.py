from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import params
from pipeline.scaffold.write import ProjectData, files
from stages.errors import MissingInputError, SettingError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(files(ProjectData("folder", "photos"))["params.yaml"])
    return tmp_path


def edit(project: Path, old: str, new: str) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_init_writes_is_valid_and_says_the_paper_s_values(project: Path) -> None:
    settings = params.load(project)
    assert settings.data.adapter == "folder"
    assert settings.train.seeds == (0, 1, 2)
    head = settings.train.heads["attention_c"]
    assert (head.learning_rate, head.batch_size, head.epochs, head.step, head.dropout) == (0.001, 32, 27, 9, 0.5)
    average = settings.train.heads["average"]
    assert (average.epochs, average.step) == (16, 5)


def test_what_init_writes_names_every_default_it_shows() -> None:
    """A value in the scaffold that equals the default stays equal to it, so that the comments stay true."""
    import yaml

    shown = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
    parsed = params.parse(shown, "scaffold")
    bare = params.parse(
        {
            "data": shown["data"],
            "extract": {"backbones": shown["extract"]["backbones"]},
            "train": {"heads": shown["train"]["heads"]},
        },
        "bare",
    )
    assert parsed.detect == bare.detect
    assert parsed.evaluate == bare.evaluate
    assert (parsed.extract, parsed.max_failures) == (bare.extract, bare.max_failures)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("min_face_size: 20", "min_face_sise: 20", r"detect\.min_face_sise.*did you mean 'min_face_size'"),
        ("learning_rate: 0.001", "learningrate: 0.001", r"heads\.average\.learningrate.*did you mean 'learning_rate'"),
        ("max_failures: 5%", "max_failures: 500%", "max_failures.*percentage"),
        ("max_failures: 5%", "colour: blue", "unknown key 'colour'; known here: data, detect"),
        ("dtype: float16", "dtype: float8", "extract.dtype is 'float8'"),
        ("seeds: [0, 1, 2]", "seeds: [1, 1]", "seed occurs twice"),
        ("seeds: [0, 1, 2]", "seeds: []", r"train\.seeds is \[\]"),
        ("adapter: folder", "adapter: tar", "data.adapter is 'tar'"),
        ('root: "photos"', "rout: photos", "did you mean 'root'"),
        ("gallery: 24", "gallery: -1", "report.gallery is -1"),
        ("kind: gupta2018:average", "kind: gupta2018:average\n      kind: other", "occurs twice"),
        ("data:", "data: [", "not readable as YAML"),
        ("    average:", "    a/b:", "head name 'a/b'"),
        ("views: {flip: false, crops: 0, seed: 0, area: 0.7}", "views: on", "views is True: input should be a mapping"),
        ("taps: [pooled]", "taps: pooled", r"effnet_lite0\.taps is 'pooled': input should be a list, such as \["),
        ("  batch_size: auto", "  batch_size: 0", r"extract\.batch_size is 0: give a number of rows from 1 on"),
        ("  batch_size: auto", "  batch_size: many", r"extract\.batch_size is 'many': give a number of rows"),
        ("  batch_size: auto", "  batch_size: true", r"extract\.batch_size is True: give a number of rows"),
        ("  batch_size: auto", "  imported: {yes: '0'}", r"extract\.imported.*a name was read as True, no text"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(project: Path, old: str, new: str, said: str) -> None:
    edit(project, old, new)
    with pytest.raises(SettingError, match=said) as caught:
        params.load(project)
    assert "\n" not in str(caught.value)
    assert "params.yaml" in str(caught.value)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="kuleshov init"):
        params.load(tmp_path)


@pytest.mark.parametrize("text", ["", "just words", "- 1\n- 2\n", "\x00", "&a [*a]"])
def test_anything_else_in_the_file_is_a_setting_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SettingError):
        params.load(tmp_path)


def test_a_number_in_scientific_notation_is_a_number(project: Path) -> None:
    edit(project, "learning_rate: 0.001", "learning_rate: 1e-2")
    assert params.load(project).train.heads["average"].learning_rate == 0.01


def test_a_bad_name_in_a_table_is_told_without_the_table(project: Path) -> None:
    edit(project, "    attention_c:\n", "    a/b:\n")
    with pytest.raises(SettingError, match=r"params.yaml: train.heads: head name 'a/b': ") as caught:
        params.load(project)
    assert "learning_rate" not in str(caught.value)


def test_a_bad_allowance_is_named_once(project: Path) -> None:
    edit(project, "max_failures: 5%", "max_failures: 500%")
    with pytest.raises(SettingError, match=r"params.yaml: max_failures is '500%': give a count"):
        params.load(project)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attention_c", "head train.heads.attention_c and fine-tune finetune.attention_c have the same name"),
        ("all_heads", "ensemble fuse.ensembles.all_heads and fine-tune finetune.all_heads have the same name"),
        ("attention_c-s0", "fine-tune name 'attention_c-s0': it ends as the name of one seed's member does"),
    ],
)
def test_a_fine_tune_is_called_as_no_other_member_is(project: Path, name: str, words: str) -> None:
    import yaml

    values = yaml.safe_load((project / "params.yaml").read_text())
    values["fuse"] = {"ensembles": {"all_heads": {"members": ["attention_c"]}}}
    values["finetune"] = {"local": {"preset": "gupta-local"}}
    params.parse(values, "params.yaml")
    values["finetune"] = {name: {"preset": "gupta-local"}}
    with pytest.raises(SettingError, match=re.escape(words)):
        params.parse(values, "params.yaml")


@pytest.mark.parametrize("name", ["baseline", "n"])
def test_names_that_scores_have_taken_are_refused(project: Path, name: str) -> None:
    edit(project, "    attention_c:\n", f"    {name}:\n")
    with pytest.raises(SettingError, match=f"'{name}' is a line of its own in scores.json"):
        params.load(project)


def test_a_fine_tune_says_what_a_sample_is(project: Path) -> None:
    edit(
        project,
        "finetune: {}",
        "finetune: {net: {backbone: mini_xception, epochs: 1, batch_size: 8, learning_rate: 0.1}}",
    )
    with pytest.raises(SettingError, match="unit is missing: face "):
        params.load(project)
