"""Checkpoints and the files of a finished training: whole or not there, and nothing but values in them."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.backbones.about import read_about
from stages.errors import SettingError, WeightsError
from stages.finetune.checkpoint import FILE, Checkpoint, data_hash, flat, load, save, save_parts, with_later

OF: dict[str, object] = {"learning_rate": 0.1, "schedule.at": [1.0, 2.0], "train": "a" * 64}
MADE = Checkpoint(
    of=OF,
    epoch=1,
    batch=2,
    iteration=7,
    finished=False,
    network={"w": torch.arange(3.0)},
    optimiser={"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    scaler={},
    random={"cpu": torch.get_rng_state()},
    history={"steps": [[1, 1, 0.1, 0.5, 0.1, 0.1]], "epochs": []},
    sums=[[1 / 3, 2, 4], [0.0, 0, 0]],
    best={},
)


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / FILE
    assert load(path, OF) is None
    save(path, MADE)
    found = load(path, OF)
    assert found is not None
    assert torch.equal(found.network["w"], MADE.network["w"])
    assert torch.equal(found.random["cpu"], MADE.random["cpu"])
    empty = {"network": {}, "random": {}, "optimiser": {}}
    assert replace(found, **empty) == replace(MADE, **empty)
    assert [one.name for one in path.parent.iterdir()] == [FILE]


def test_a_checkpoint_of_before_a_setting_goes_on_where_it_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / FILE
    save(path, MADE)
    assert load(path, OF | {"freeze": False, "photos.freeze": False}) is not None
    with pytest.raises(SettingError, match=r"freeze was False and is True"):
        load(path, OF | {"freeze": True})
    assert with_later({"freeze": True}, {"freeze": False}) == {"freeze": True}
    assert with_later({}, {"seed": 0}) == {}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_half_written_checkpoint(tmp_path: Path, share: float) -> None:
    path = tmp_path / FILE
    save(path, MADE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match="remove it to train from the start") as caught:
        load(path, OF)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Code:
    """Makes a folder when a careless reader loads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("foreign", ["state", "list", "code", "text", "schema"])
def test_a_foreign_checkpoint(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / FILE
    save(path, MADE)
    if foreign == "state":
        torch.save({"w": torch.ones(2)}, path)
    elif foreign == "list":
        torch.save([1, 2], path)
    elif foreign == "code":
        path.write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    elif foreign == "text":
        path.write_text("no checkpoint")
    else:
        torch.save(torch.load(path, weights_only=True) | {"schema": 0}, path)
    with pytest.raises(WeightsError, match=r"no (whole )?checkpoint of a fine-tune.*remove it to train from the start"):
        load(path, OF)
    assert not (tmp_path / "ran").exists()


def test_another_training_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / FILE
    save(path, MADE)
    with pytest.raises(
        SettingError, match=r"learning_rate was 0\.1 and is 0\.2, seed was None and is 1; set that back"
    ):
        load(path, OF | {"learning_rate": 0.2, "seed": 1})
    with pytest.raises(SettingError, match=r"train was a{16}\.\.\. and is b{16}\.\.\."):
        load(path, OF | {"train": "b" * 64})
    with pytest.raises(SettingError, match=r"and 6 more"):
        load(path, OF | {f"other{i}": i for i in range(10)})


def test_a_save_that_is_cut_off_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / FILE
    save(path, MADE)

    def cut(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", cut)
        with pytest.raises(OSError, match="no space left"):
            save(path, replace(MADE, iteration=8))
    found = load(path, OF)
    assert found is not None
    assert found.iteration == 7
    save(path, replace(MADE, iteration=8))
    assert [one.name for one in tmp_path.iterdir()] == [FILE]


def test_nested_settings_become_flat() -> None:
    assert flat({"a": 1, "b": {"c": None, "d": {"e": [2]}}}) == {"a": 1, "b.c": None, "b.d.e": [2]}


def test_the_datas_hash_is_of_samples_and_labels_in_order() -> None:
    base = data_hash(["a", "b"], np.array([0, 1]))
    assert base == data_hash(iter(["a", "b"]), np.array([0, 1]))
    others = [(["b", "a"], [1, 0]), (["a", "b"], [0, 0]), (["a", "c"], [0, 1]), (["a"], [0])]
    assert base not in {data_hash(ids, np.array(labels)) for ids, labels in others}


def test_finished_weights_are_plain_and_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    tied = nn.Linear(3, 3)
    parts = {"backbone": nn.Sequential(tied, tied).to(memory_format=torch.channels_last), "head": nn.BatchNorm1d(2)}
    about = {"backbone": "x", "classes": ["ä", "b"], "unit": "face"}
    written = save_parts(tmp_path / "a", parts, about)
    again = save_parts(tmp_path / "b", parts, dict(reversed(about.items())))
    assert [path.name for path in written.values()] == ["backbone.safetensors", "head.safetensors"]
    for name, path in written.items():
        assert path.read_bytes() == again[name].read_bytes()
        assert load_file(path).keys() == parts[name].state_dict().keys()
        assert read_about(path) == about


@pytest.mark.parametrize("what", ["missing", "empty", "cut", "plain"])
def test_weights_that_no_fine_tune_wrote(tmp_path: Path, what: str) -> None:
    path = save_parts(tmp_path, {"backbone": nn.Linear(2, 2)}, {"backbone": "x"})["backbone"]
    if what == "missing":
        path.unlink()
    elif what == "plain":
        from safetensors.torch import save_file

        save_file({"w": torch.ones(1)}, path)
    else:
        path.write_bytes(path.read_bytes()[: 0 if what == "empty" else 40])
    with pytest.raises(WeightsError, match="missing, damaged, or not of a fine-tune: run that fine-tune again"):
        read_about(path)
