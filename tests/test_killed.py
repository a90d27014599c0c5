"""`kill -9` of the command line at random moments: run to its end after, the result is that of an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cache import journal
from cache.store import Store
from pipeline.cli import main_group
from pipeline.scaffold.write import ProjectData, files
from stages.index.drawn.scenes import draw_scene

ROOT = Path(__file__).parent.parent
STAGES = ("detect", "align", "extract resnet29")
SCENES = 3
Rows = dict[str, dict[bytes, tuple[bytes, str, str]]]


def start(place: Path, store: Path, stage: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli import main; main()", "-C", str(place), *stage.split()],
        cwd=ROOT,
        env={**os.environ, "KULESHOV_STORE": str(store)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(place: Path, *stages: str) -> None:
    """Stages to their end, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KULESHOV_STORE", str(place / "store"))
        for stage in stages:
            main_group.main(["-C", str(place), *stage.split()], standalone_mode=False)


def kill(place: Path, stage: str, chance: random.Random) -> bool:
    """Start a stage and kill it as it starts, somewhere in its run, or as it begins to write; whether it still ran."""
    before = files_of(place / "store")
    process = start(place, place / "store", stage)
    moment = chance.choice(("start", "run", "write"))
    if moment == "start":
        time.sleep(chance.uniform(0, 0.5))
    elif moment == "run":
        time.sleep(chance.uniform(0.5, 5))
    else:
        while process.poll() is None and files_of(place / "store") == before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def files_of(root: Path) -> set[Path]:
    return set((root / "blocks").glob("*/*/*"))


def contents(root: Path) -> Rows:
    """Block's folder -> item key -> the bits of its rows, its status and detail. No item is recorded twice."""
    store = Store(root)
    found: Rows = {}
    for info in store.blocks():
        block = store.open(info.spec)
        assert sum(record.items for record in journal.read(info.path / "journal")) == len(block), "an item twice"
        items = {key.ljust(16, b"\0"): block.item(key) for key in block.keys.tolist()}
        found[info.path.name] = {key: (rows.tobytes(), *rest) for key, (rows, *rest) in items.items()}  # type: ignore[misc]
    return found


def tables(place: Path) -> dict[str, bytes]:
    artifacts = place / "artifacts"
    return {str(path.relative_to(artifacts)): path.read_bytes() for path in sorted(artifacts.rglob("*.csv"))}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of some scenes and a broken photo, with its store and artifacts after an uninterrupted run."""
    place = tmp_path_factory.mktemp("whole")
    lines = ["path,sample_id,label,split"]
    for index in range(SCENES):
        draw_scene(8, index).image.save(place / f"{index}.png")
        lines.append(f"{index}.png,s{index},glad,train")
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    (place / "labels.csv").write_text("\n".join([*lines, "broken.jpg,broken,sad,train", ""]))
    text = files(ProjectData("csv", "labels.csv"))["params.yaml"]
    (place / "params.yaml").write_text(text.replace("max_failures: 5%", "max_failures: 2"))
    finish(place, "index", *STAGES)
    return place


def kill_and_finish(project: Path, place: Path, kills: int, seed: int) -> int:
    """Kill every stage at random moments before it may end; how many runs were killed while they ran."""
    chance = random.Random(seed)
    place.mkdir()
    for name in ("params.yaml", "labels.csv", "broken.jpg", *(f"{i}.png" for i in range(SCENES))):
        (place / name).symlink_to(project / name)
    (place / "artifacts").mkdir()
    (place / "artifacts" / "manifest.csv").write_bytes((project / "artifacts" / "manifest.csv").read_bytes())
    midway = 0
    whole = contents(project / "store")
    for stage in STAGES:
        for _ in range(kills):
            midway += kill(place, stage, chance)
            for folder, items in contents(place / "store").items():
                assert items.items() <= whole[folder].items(), "what is recorded is right"
        finish(place, stage)
    assert contents(place / "store") == whole
    mine, reference = tables(place), tables(project)
    of_index = ("failures/index.csv", "keys/")  # it ran in the other project only
    assert mine == {name: content for name, content in reference.items() if not name.startswith(of_index)}
    assert {f"blocks/{name}.csv" for name in ("detect", "align", "extract/resnet29")} <= mine.keys()
    return midway


def test_a_stage_killed_at_random_moments_ends_as_an_uninterrupted_one(project: Path, tmp_path: Path) -> None:
    assert kill_and_finish(project, tmp_path / "p", kills=1, seed=6) > 0


@pytest.mark.soak
def test_stages_killed_at_many_random_moments(project: Path, tmp_path: Path) -> None:
    midway = sum(kill_and_finish(project, tmp_path / str(seed), kills=3, seed=seed) for seed in range(2))
    print(f"18 runs of the command line, {midway} of them killed before their end")
    assert midway > 6
