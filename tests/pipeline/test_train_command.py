"""`kuleshov train` as a user runs it: stopped half-way, and judged by what it was trained on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
PHOTOS = 12


@pytest.fixture
def project(tmp_path: Path, kuleshov: Run) -> Path:
    """Twelve small photos in two classes, four of them of split test, and imported features that tell the classes."""
    draw = np.random.default_rng(0)
    lines = ["path,sample_id,label,split"]
    for i in range(PHOTOS):
        Image.fromarray(draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,s{i},{('glad', 'sad')[i % 2]},{'train' if i < 8 else 'test'}")
    (tmp_path / "labels.csv").write_text("\n".join([*lines, ""]))
    folder = tmp_path / "project"
    assert kuleshov("init", folder, "--adapter", "csv", "--root", tmp_path / "labels.csv")[0] == 0
    assert kuleshov("-C", folder, "index")[0] == 0
    names = np.array([f"s{i}" for i in range(PHOTOS)])
    np.savez(tmp_path / "tone.npz", sample_id=names, features=[[i % 2 * 2.0 - 1] for i in range(PHOTOS)])
    status, said, err = kuleshov(
        "-C", folder, "cache", "import", tmp_path / "tone.npz", "--name", "tone", "--level", "global"
    )
    assert status == 0, err
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["extract"]["imported"] = {"tone": re.findall(r", key ([0-9a-f]{16})$", said, re.M)[0]}
    values["train"] = {"seeds": [0], "heads": {"photo": {"kind": "tan2017:global", "global": ["imported/tone"]}}}
    values["fuse"] = {"ensembles": {}}
    values["evaluate"] = {"split": "test", "resamples": 100}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    assert kuleshov("-C", folder, "detect")[0] == 0
    return folder


def change(folder: Path, section: str, **values: object) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params[section] |= values
    path.write_text(yaml.safe_dump(params))


def test_ctrl_c_says_that_nothing_is_kept_and_the_next_run_is_whole(project: Path, kuleshov: Run) -> None:
    long = {"kind": "tan2017:global", "global": ["imported/tone"], "epochs": 1_000_000, "learning_rate": 0.01}
    change(project, "train", heads={"photo": long})
    code = "import signal; signal.signal(2, signal.default_int_handler); from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "-C", str(project), "train"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        while process.poll() is None and not (project / "artifacts" / ".new").is_dir():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.split("kuleshov: ")[-1].strip() == (
        "error: stopped; training keeps nothing half-way, and what was there before stays: run the same command again, "
        "it trains all heads anew"
    )
    assert not (project / "artifacts" / ".new").exists()
    assert not (project / "artifacts" / "predictions").exists()
    change(project, "train", heads={"photo": {**long, "epochs": 30}})
    assert kuleshov("-C", project, "train")[0] == 0
    assert kuleshov("-C", project, "evaluate")[0] == 0


def test_scores_of_the_training_split_are_said_to_be_no_estimate(project: Path, kuleshov: Run) -> None:
    assert kuleshov("-C", project, "train")[0] == 0
    assert "not an estimate" not in kuleshov("-C", project, "evaluate")[1]
    change(project, "evaluate", split="train")
    status, said, err = kuleshov("-C", project, "evaluate")
    assert status == 0, err
    assert "warning: Split 'train' is what the heads were trained on" in said
