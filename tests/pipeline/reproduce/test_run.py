"""A recipe from its drawn data sets to its table, killed, interrupted, finished, and run again."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.run import run

pytestmark = pytest.mark.timeout(900)  # eighteen stages, each a process that imports torch

STAGES = ["index", "detect", "align", "finetune", "extract@expression", "train", "fuse", "evaluate", "report"]


def working(process: psutil.Process, stage: str) -> bool:
    """Whether it is this stage's."""
    try:
        return process.cmdline()[-1] == stage
    except (psutil.Error, IndexError):
        return False


class Place:
    """Where the recipe is run, and what was said there."""

    def __init__(self, folder: Path, write_recipes: Callable[[Path], Path]) -> None:
        self.recipes, self.out = write_recipes(folder / "recipes"), folder / "out"
        self.interrupted: tuple[int, str] = (0, "")
        self.left: list[psutil.Process] = []
        self.said: list[list[str]] = []

    def started(self, stage: str, number: signal.Signals) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
        """The command in a process of its own, which gets a signal as soon as this stage runs; its descendants then."""
        code = (
            "import signal, sys; from pathlib import Path; from pipeline.reproduce import recipe\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"recipe.FOLDER = Path({str(self.recipes)!r})\n"
            "from pipeline.cli import main; main()"
        )
        command = [sys.executable, "-c", code, "reproduce", "run", "tiny", "--small", "--to", str(self.out)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, bufsize=1)
        children: list[psutil.Process] = []
        while process.poll() is None and not any(working(child, stage) for child in children):
            time.sleep(0.02)
            children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        return process, children

    def finish(self) -> list[str]:
        """The command in this process, to its end."""
        said: list[str] = []
        table = run("tiny", {}, self.out, small=True, say=said.append)
        self.said.append(said)
        return table


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, write_recipes: Callable[[Path], Path]) -> Iterator[Place]:
    """Killed in its first stage, interrupted in another one, then run twice."""
    here = Place(tmp_path_factory.mktemp("reproduced"), write_recipes)
    killed, children = here.started("index", signal.SIGKILL)
    for child in children:  # the machine failed
        child.kill()
    killed.communicate()
    stopped, here.left = here.started("align", signal.SIGINT)
    here.interrupted = (stopped.wait(60), stopped.communicate()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "FOLDER", here.recipes)
        yield here


@pytest.fixture(scope="module")
def table(place: Place) -> list[str]:
    return place.finish()


def test_ctrl_c_ends_dvc_and_its_stage_and_says_how_to_go_on(place: Place) -> None:
    status, err = place.interrupted
    assert (status, err.strip().splitlines()[-1]) == (
        130,
        "kuleshov: error: stopped; what was recorded is kept, and the same command goes on from there",
    )
    assert len(place.left) >= 2  # dvc and the stage
    assert not [one for one in psutil.wait_procs(place.left, timeout=10)[1] if one.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_run_goes_on(place: Place, table: list[str]) -> None:
    first, second = (
        [line.split("'")[1] for line in part.splitlines() if "stage '" in line]
        for part in "\n".join(place.said[0]).split("tiny-second: dvc repro in")
    )
    assert first[0] == "index"
    assert first[1:] == STAGES[-len(first) + 1 :], "those that had ended do not run again"
    assert "detect" not in first
    assert second == STAGES


def test_the_table_has_every_number(place: Place, table: list[str]) -> None:
    found = json.loads((place.out / "tiny.json").read_text())
    numbers = {(one["row"], one["column"]): one for one in found["numbers"]}
    assert set(numbers) == {
        *(("Net", of) for of in ("accuracy", "happy")),
        *(("Logistic", of) for of in ("accuracy", "happy")),
        *((name, "accuracy") for name in ("Both", "Theirs")),
    }
    assert numbers["Theirs", "accuracy"]["ours"] is None
    ours = {place: one["ours"] for place, one in numbers.items() if one["ours"] is not None}
    assert all(one["low"] <= one["value"] <= one["high"] for one in ours.values())
    assert {one["n"] for (_, column), one in ours.items() if column == "accuracy"} == {14}
    assert {one["n"] for (_, column), one in ours.items() if column == "happy"} == {2}
    assert (ours["Logistic", "accuracy"]["seeds"], ours["Net", "accuracy"]["seeds"]) == (2, 1)
    assert [one["verdict"] for one in found["compared"]] in (["same"], ["reversed"], ["undetermined"])
    with open(place.out / "tiny.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["row"], row["column"]) for row in rows] == list(numbers)
    assert (place.out / "tiny.md").read_text().startswith("# Table 0: a fine-tune and what starts from it\n")
    text = "\n".join(table)
    assert text.count("fourteen drawn faces") == 1
    assert "  - Both: the paper has no such row" in table
    assert "features of 63 items; 63 forward passes now, 0 saved by the store" in table


def test_the_projects_have_only_what_the_table_needs(place: Place, table: list[str]) -> None:
    first, second = (
        yaml.safe_load((place.out / name / "params.yaml").read_text()) for name in ("tiny-first", "tiny-second")
    )
    assert set(first["finetune"]) == {"net"}
    assert second["finetune"]["net"]["start"] == "folder:../tiny-first/artifacts/finetune/net"
    assert first["data"]["root"] != second["data"]["root"]
    assert Path(first["data"]["root"]).parent == place.out / "standins"
    notes = json.loads((place.out / "tiny-second" / "artifacts" / "finetune" / "net" / "training.json").read_text())
    assert "tiny-first" in json.dumps(notes)


def test_a_second_run_computes_nothing_and_says_so(place: Place, table: list[str]) -> None:
    again = place.finish()
    ran = [line.split("'")[1] for line in place.said[-1] if "stage '" in line]
    assert ran == ["index", "index"]  # it always looks
    assert again[:-2] == table[:-2]
    assert again[-2] == "features of 63 items; 0 forward passes now, 63 saved by the store"
    assert table[-1].split("; ")[1] == again[-1].split("; ")[1]


Kuleshov = Callable[..., tuple[int, str, str]]


def test_a_stage_that_fails_says_its_own_error_and_where_the_log_is(
    place: Place, table: list[str], kuleshov: Kuleshov
) -> None:
    manifest = place.out / "standins"
    (root,) = {Path(yaml.safe_load((place.out / "tiny-first" / "params.yaml").read_text())["data"]["root"])}
    assert root.parent == manifest
    (root / "fer2013.csv").rename(root / "elsewhere.csv")
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n0,1 2 x,Training\n", encoding="utf-8")
    try:
        status, _, err = kuleshov("reproduce", "run", "tiny", "--small", "--to", place.out)
    finally:
        (root / "elsewhere.csv").rename(root / "fer2013.csv")
    assert status == 1
    (line,) = [one for one in err.splitlines() if one.startswith("kuleshov: error:")]
    assert line.startswith("kuleshov: error: tiny-first, stage index: none of the 1 item(s) of ")
    log = place.out / "tiny-first" / "reproduce.log"
    assert line.endswith(f"; {log} has all that was said")
    assert "ERROR: failed to reproduce" in log.read_text()
