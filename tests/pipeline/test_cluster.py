"""Stages on workers: a real scheduler and real worker processes on loopback; one of them is killed."""

from __future__ import annotations

import json
import operator
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dask import config
from dask.system import CPU_COUNT
from distributed import Client

from cache.store import Store
from pipeline import cluster
from pipeline.cli import main_group
from pipeline.cluster import Cluster, ClusterError
from pipeline.scaffold.write import ProjectData, write_project
from stages.detect import run as detect
from stages.errors import SettingError
from stages.extract import run as extract
from stages.index.drawn.scenes import draw_scene, scene_cell
from stages.ledger import Allowance
from stages.spread import Part

Run = Callable[..., tuple[int, str, str]]
PHOTOS = 24
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Dask:
    """A scheduler and workers in processes of their own, as `dask scheduler` and `dask worker` start them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.processes: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(place / "scheduler"))
        self.scheduler = self.processes[0]
        self.address = str(wait_for(lambda: json.loads((place / "scheduler").read_text())["address"]))

    def _start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{arguments[0]}", *arguments[1:], "--no-dashboard"]
        with open(self.place / f"log{len(self.processes)}", "wb") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.place, env=ENVIRONMENT))

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        self._start("worker", self.address, "--name", name, "--nthreads", "1", "--no-nanny")
        return self.processes[-1]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def wait_for(get: Callable[[], object], seconds: float = 60) -> object:
    """What `get` returns when it is true and raises nothing."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, ValueError, KeyError):
            if found := get():
                return found
        time.sleep(0.02)
    raise AssertionError("nothing came")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Dask]:
    started = Dask(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with faces and a broken one, a face-level and a photo-level backbone; indexed and nothing more."""
    place = tmp_path_factory.mktemp("spread") / "project"
    for index in range(PHOTOS):
        folder = place / "photos" / "train" / scene_cell(index).label
        folder.mkdir(parents=True, exist_ok=True)
        draw_scene(9, index).image.resize((200, 150)).save(folder / f"{index}.jpg")
    photo = next((place / "photos").rglob("*.jpg"))
    photo.with_name("broken.jpg").write_bytes(photo.read_bytes()[:900])
    write_project(place, ProjectData("folder", "photos"))
    params = yaml.safe_load((place / "params.yaml").read_text())
    del params["extract"]["backbones"]["expression"]
    params["detect"]["device"] = params["extract"]["device"] = "cpu"
    params["max_failures"] = 1
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    main_group.main(["-C", str(place), "index"], standalone_mode=False)
    return place


@pytest.fixture(scope="module")
def single(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project and its store, `store`, after a run in one process."""
    place = tmp_path_factory.mktemp("single") / "project"
    shutil.copytree(project, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KULESHOV_STORE", str(place / "store"))
        for stage in ("detect", "align", "extract"):
            main_group.main(["-C", str(place), stage], standalone_mode=False)
    return place


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with an empty store."""
    monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "copy" / "store"))
    return Path(shutil.copytree(project, tmp_path / "copy"))


def assert_same(place: Path, other: Path) -> None:
    """Every file under artifacts but timings to the byte, every row of the stores to the bit."""
    files = [
        {
            path.relative_to(p): path.read_bytes()
            for path in (p / "artifacts").rglob("*")
            if path.is_file() and path.relative_to(p).parts[1] != "timings"
        }
        for p in (place, other)
    ]
    assert files[0] == files[1]
    assert Path("artifacts/blocks/extract/resnet29.csv") in files[0]
    stores = [Store(p / "store") for p in (place, other)]
    specs = [[info.spec for info in store.blocks()] for store in stores]
    assert specs[0] == specs[1]
    for spec in specs[0]:
        a, b = (store.open(spec) for store in stores)
        assert a.keys.tobytes() == b.keys.tobytes()
        assert a.statuses(a.keys) == b.statuses(b.keys)
        assert [part.tobytes() for part in a.rows(a.keys)] == [part.tobytes() for part in b.rows(b.keys)]


def shards(place: Path, block: str) -> int:
    return len(list((place / "store" / "blocks").glob(f"{block}-*/journal/*.json")))


def kill_while_it_computes(worker: subprocess.Popen[bytes], name: str, address: str, ready: Callable[[], bool]) -> None:
    """Wait for `ready`; then stop the worker, and kill it if it has a part that it has not finished."""
    with Client(address, set_as_default=False) as client:
        wait_for(ready)

        def killed() -> bool:
            worker.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            [at] = [key for key, info in client.scheduler_info()["workers"].items() if info["name"] == name]
            processing: Any = client.processing()
            if processing[at]:
                worker.kill()
                return True
            worker.send_signal(signal.SIGCONT)
            return False

        wait_for(killed)


@pytest.fixture
def kill() -> Iterator[Callable[..., threading.Thread]]:
    """`kill_while_it_computes` beside the test; a thread that did not kill fails the test."""
    threads: list[threading.Thread] = []

    def start(*arguments: object) -> threading.Thread:
        threads.append(threading.Thread(target=kill_while_it_computes, args=arguments))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join()


def test_workers_that_are_killed_change_nothing(
    copy: Path,
    single: Path,
    running: Dask,
    kill: Callable[..., threading.Thread],
    kuleshov: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detect, "PART_FRAMES", 3)
    monkeypatch.setattr(extract, "PART_ITEMS", 4)
    first = running.worker("first")
    running.worker("stays")
    wait_for(lambda: workers_of(running.address) == 2)
    thread = kill(first, "first", running.address, lambda: shards(copy, "mtcnn-boxes-face") >= 1)
    status, out, err = kuleshov("-C", copy, "detect", "--scheduler", running.address)
    assert (status, err) == (0, "")
    thread.join()
    assert first.wait() == -signal.SIGKILL
    assert f"detect: {PHOTOS + 1} photos, {PHOTOS} computed, 0 from the store, 1 failed" in out
    assert shards(copy, "mtcnn-boxes-face") >= 4, "every part wrote its own"
    assert kuleshov("-C", copy, "align")[0] == 0
    second = running.worker("second")
    wait_for(lambda: workers_of(running.address) == 2)
    thread = kill(second, "second", running.address, lambda: shards(copy, "effnet_lite0-pooled-global") >= 1)
    status, out, err = kuleshov("-C", copy, "extract", "--scheduler", running.address)
    assert (status, err) == (0, "")
    thread.join()
    assert second.wait() == -signal.SIGKILL
    assert out.count("face groups, ") == 1
    assert_same(copy, single)


def workers_of(address: str) -> int:
    with Client(address, set_as_default=False) as client:
        workers: Any = client.nthreads()
        return len(workers)


def test_local_workers_give_what_one_process_gives(copy: Path, single: Path) -> None:
    """In a process of its own, as a user runs it: nothing else is said, nothing is left."""
    code = "from pipeline.cli import main; main()"
    for stage in ("detect", "extract"):
        command = [sys.executable, "-c", code, "-C", str(copy), stage, "--workers", "2"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert {line.split(":")[0].split("/")[0] for line in done.stdout.splitlines() if line[0] != " "} == {stage}
        if stage == "detect":
            main_group.main(["-C", str(copy), "align"], standalone_mode=False)
    assert_same(copy, single)
    assert not list(copy.rglob("dask*"))


def test_ctrl_c_ends_the_workers_in_one_line(copy: Path) -> None:
    """A terminal sends it to all processes of the command, here once a worker has loaded torch."""
    code = "import signal; signal.signal(2, signal.default_int_handler); from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "-C", str(copy), "detect", "--workers", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=copy, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:

        def computing() -> list[psutil.Process]:
            children = psutil.Process(process.pid).children()
            with suppress(psutil.NoSuchProcess):  # a child that only asked something has ended
                if any("torch" in region.path for child in children for region in child.memory_maps()):
                    return children
            return []

        children: Any = wait_for(computing)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "kuleshov: error: stopped; what was recorded is kept, and the same command goes on from there"
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_without_the_options_dask_is_not_imported(copy: Path) -> None:
    for path in sorted((copy / "photos").rglob("*.jpg"))[2:]:
        path.unlink()
    code = (
        "import sys; from pipeline.cli import main_group as run; run(['index'], standalone_mode=False); "
        "run(['detect', '--max-failures', '1'], standalone_mode=False); "
        "print([m for m in ('torch', 'dask', 'distributed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['torch']"


@pytest.fixture(scope="module")
def local() -> Iterator[Cluster]:
    with Cluster(workers=1) as started:
        yield started


def numbers(function: Callable[[int], object], count: int = 1) -> list[Part]:
    return [Part(i, 1, f"s{i}.jpg") for i in range(count)]


def test_answers_come_with_the_number_of_their_part(local: Cluster) -> None:
    assert sorted(local.run(operator.neg, numbers(operator.neg, 9))) == [(i, -i) for i in range(9)]
    assert local.workers() == 1
    assert list(local.run(operator.neg, [])) == []


def test_a_worker_computes_with_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.delenv("KULESHOV_DECODERS", raising=False)
    names = ("CUDA_VISIBLE_DEVICES", "KULESHOV_DECODERS")
    code = f"(__import__('torch').get_num_threads(), *map(__import__('os').environ.get, {names}))"
    monkeypatch.setattr(cluster, "cuda_devices", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 3")
    with Cluster(workers=2) as started:
        answers = {answer for _, answer in started.run(eval, [Part(code, 1, str(i)) for i in range(2)])}
    share = max(1, CPU_COUNT // 2)
    decoders = str(max(1, min(8, share // 2)))
    assert answers == {(share, "5", decoders), (share, "3", decoders)}
    assert "KULESHOV_DECODERS" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "64", "this process's own environment is as it was"


def test_a_worker_has_as_many_decoding_processes_as_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KULESHOV_DECODERS", "5")
    code = "__import__('os').environ['KULESHOV_DECODERS']"
    with Cluster(workers=1) as started:
        assert list(started.run(eval, [Part(code, 1, "0")])) == [(0, "5")]
    assert os.environ["KULESHOV_DECODERS"] == "5"


def test_what_a_worker_raises_on_purpose_arrives(local: Cluster) -> None:
    with pytest.raises(SettingError, match="max_failures is 'many': give a count"):
        list(local.run(Allowance.parse, [Part("many", 1, "s.jpg"), Part("1", 1, "t.jpg")]))
    with pytest.raises(FileNotFoundError):
        list(local.run(os.stat, [Part("/nowhere/at all", 1, "s.jpg")]))
    assert list(local.run(operator.neg, numbers(operator.neg))) == [(0, 0)]


def test_a_module_that_workers_do_not_have(local: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    here = types.ModuleType("only_here")
    exec("def function(x): return x", vars(here))  # noqa: S102
    monkeypatch.setitem(sys.modules, "only_here", here)
    with pytest.raises(ClusterError, match="a worker has no module 'only_here'; install the same version of kuleshov"):
        list(local.run(here.function, [Part(1, 1, "s.jpg")]))


def test_a_part_that_ends_its_workers_is_named() -> None:
    with (
        config.set({"distributed.scheduler.allowed-failures": 0}),
        Cluster(workers=1) as started,
        pytest.raises(ClusterError, match=r"the part of 3 items that starts with 's\.jpg' ended 1 workers; .*fewer"),
    ):
        list(started.run(os._exit, [Part(1, 3, "s.jpg")]))


def test_without_a_scheduler_or_workers_it_is_one_line(
    copy: Path, running: Dask, kuleshov: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens
        address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        status, out, err = kuleshov("-C", copy, "detect", "--scheduler", address)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert f"--scheduler {address}: no scheduler answers there" in err
    assert "dask scheduler" in err
    status, out, err = kuleshov("-C", copy, "detect", "--scheduler", running.address.replace("tcp", "tls"))
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "give Dask its certificates first" in err
    status, out, err = kuleshov("-C", copy, "detect", "--scheduler", running.address)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert f"the scheduler has no workers; start some with dask worker {running.address}" in err


def test_workers_or_a_scheduler_that_go_away_are_said(running: Dask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "NO_WORKER_SECONDS", 0.5)
    only = running.worker("only")
    wait_for(lambda: workers_of(running.address) == 1)
    sleeps = [Part(60.0, 1, "s.jpg")]
    with Cluster(running.address) as started:
        threading.Timer(1, only.kill).start()
        with pytest.raises(ClusterError, match=f"{running.address}: no worker is left; what they recorded is kept"):
            list(started.run(time.sleep, sleeps))
        running.worker("another")
        wait_for(lambda: workers_of(running.address) == 1)
        threading.Timer(1, running.scheduler.kill).start()
        with pytest.raises(ClusterError, match=f"{running.address}: the scheduler is gone"):
            list(started.run(time.sleep, sleeps))


@pytest.mark.parametrize("stage", ["detect", "extract"])
def test_options_that_cannot_be(stage: str, kuleshov: Run, tmp_path: Path) -> None:
    run = partial(kuleshov, "-C", tmp_path, stage)
    status, _, err = run("--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    assert status == 2
    assert "--scheduler has workers of its own: give it or --workers, not both" in err
    for address in ("", "head:8786", "http://head:8786", "tcp://head", "tcp://head:8786/status"):
        status, _, err = run("--scheduler", address)
        assert (status, len(err.splitlines())) == (1, 1)
        assert f"--scheduler '{address}': give the address that dask scheduler says, tcp://HOST:PORT" in err
    for count in ("0", "-1", "many"):
        status, _, err = run("--workers", count)
        assert status == 2
        assert "--workers" in err
