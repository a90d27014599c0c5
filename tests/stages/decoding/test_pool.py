from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.decoding import pool as pool_module
from stages.decoding.pool import Crash, Decoded, DecodingError, close, decoded, usable_processes
from stages.errors import SettingError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent


@pytest.fixture(autouse=True)
def _own_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that find decoding_jobs.py, and none of them left for other tests."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("KULESHOV_DECODERS", "2")
    monkeypatch.syspath_prepend(HERE)
    close()
    yield
    close()


@pytest.fixture
def jobs() -> Any:
    return importlib.import_module("decoding_jobs")


def values(results: Iterator[Decoded[Any, Any]]) -> list[Any]:
    return [result.value for result in results]


def rss() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def waiting_bytes() -> int:
    """Of the results that wait here."""
    return sum(process._bytes for pool in list(pool_module._pools) for process in pool.processes if process)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    """Whether the pools know that a process of theirs has ended: a process that the system calls a zombie may have
    threads that are still ending."""
    known = [one for pool in list(pool_module._pools) for one in pool.processes if one and one.pid == pid]
    return not any(one.alive() for one in known)


@pytest.mark.parametrize("number", ["1", "3"])
def test_results_come_in_the_order_of_the_jobs_and_of_the_yields(
    monkeypatch: pytest.MonkeyPatch, jobs: Any, number: str
) -> None:
    monkeypatch.setenv("KULESHOV_DECODERS", number)
    assert values(decoded(jobs.slow_when_even, range(40))) == list(range(40))
    found = list(decoded(jobs.count, [3, 1, 0, 12, 2]))
    assert [(result.job, result.value, result.last) for result in found] == [
        *((3, 300 + i, i == 2) for i in range(3)),
        (1, 100, True),
        (0, None, True),
        *((12, 1200 + i, i == 11) for i in range(12)),
        *((2, 200 + i, i == 1) for i in range(2)),
    ]
    assert list(decoded(jobs.count, [])) == []


def test_seconds_are_those_of_each_result(jobs: Any) -> None:
    seconds = [result.seconds for result in decoded(jobs.slowly, [0, 1])]
    assert len(seconds) == 6
    assert all(0.05 <= value < 1 for value in seconds)


def test_arrays_arrive_as_they_were_and_may_be_written_to(jobs: Any) -> None:
    found = values(decoded(jobs.arrays, [3]))
    for i, (pixels, numbers, rest) in enumerate(found):
        assert (pixels.shape, pixels.dtype, rest) == ((i, 40, 3), np.uint8, [i])
        assert (pixels == i).all()
        np.testing.assert_array_equal(numbers, np.arange(6.0).reshape(2, 3) + i)
        assert numbers.flags.f_contiguous
        pixels += 1


def test_jobs_of_very_many_arrays_go_through(jobs: Any) -> None:
    """A long clip: some boxes for each frame."""
    [found] = values(decoded(jobs.identity, [[np.full((1, 4), i, np.float32) for i in range(80_000)]]))
    assert np.array_equal(np.concatenate(found)[:, 3], np.arange(80_000))


def test_large_jobs_go_through_while_results_wait(jobs: Any) -> None:
    """Jobs and results larger than a pipe, both ways: nobody waits for the other."""
    given = [np.full(3_000_000, i, np.uint8) for i in range(30)]
    for result in decoded(jobs.identity, given):
        time.sleep(0.005)
        np.testing.assert_array_equal(result.value, result.job)


def test_jobs_are_taken_a_few_ahead_only(jobs: Any) -> None:
    taken = 0

    def coming() -> Iterator[int]:
        nonlocal taken
        for taken in range(1000):  # noqa: B007
            yield 1

    results = decoded(jobs.count, coming())
    next(results)
    assert 2 <= taken <= 30
    results.close()


@pytest.mark.parametrize("name", ["large", "long_clip"])
def test_memory_is_bounded_when_results_come_faster_than_they_are_taken(jobs: Any, name: str) -> None:
    """A gigabyte is there to be made; nobody takes it."""
    sum(values(decoded(jobs.identity, [1])))
    before = rss()
    with closing(decoded(getattr(jobs, name), range(100))) as results:
        next(results)
        assert wait_for(lambda: waiting_bytes() > 50_000_000), "they work ahead"
        time.sleep(0.5)  # and would go on if they could
        assert waiting_bytes() < 150_000_000
        for _ in range(20):
            next(results)
            assert rss() - before < 260_000_000  # 2 processes of 64 MB, the results in use, and what is being read


def test_a_process_that_is_killed_is_replaced_and_its_job_done(jobs: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    found = list(decoded(jobs.die_once, [(i, str(mark)) for i in range(6)]))
    assert mark.exists()
    assert [result.value for result in found] == [10 * job + i for job in range(6) for i in range(4)]
    assert [result.last for result in found] == [i == 3 for _ in range(6) for i in range(4)]


def test_a_job_that_ends_two_processes_is_a_crash_and_the_others_are_done(jobs: Any) -> None:
    found = [(result.job, result.value, result.last) for result in decoded(jobs.segfault, range(7))]
    crash = Crash("the decoding process ended with signal 11 (SIGSEGV)")
    expected: list[tuple[int, Any, bool]] = []
    for job in range(7):
        expected += [(job, job, False), (job, crash, True) if job in (1, 4) else (job, -job, True)]
    assert found == expected


def test_a_crash_says_the_exit_status(jobs: Any) -> None:
    assert values(decoded(jobs.leave, [3, 0])) == [Crash("the decoding process ended with exit status 3"), 0]


def test_a_result_that_cannot_be_read_is_a_crash(jobs: Any) -> None:
    first, second, third = values(decoded(jobs.unreadable, [0, 1, 2]))
    assert (first, third) == (0, 2)
    assert second.detail.startswith("the decoding process ended with a result that cannot be read (ValueError")


def test_an_exception_is_raised_here_and_the_next_call_starts_afresh(jobs: Any) -> None:
    results = decoded(jobs.refuse, range(50))
    assert [next(results).value for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="job 2 is refused") as caught:
        list(results)
    assert "decoding_jobs.py" in caught.value.__notes__[0]
    assert values(decoded(jobs.count, [2])) == [200, 201]


def test_an_exception_that_cannot_travel_says_what_it_was(jobs: Any) -> None:
    with pytest.raises(RuntimeError, match="Refusal: a in its place"):
        list(decoded(jobs.refuse_oddly, ["a"]))


def test_values_that_cannot_travel_are_refused(jobs: Any) -> None:
    with pytest.raises(Exception, match="pickle"):
        list(decoded(jobs.unpicklable, [1]))
    with pytest.raises(Exception, match="pickle"):
        list(decoded(jobs.identity, [1, lambda: 2]))
    with pytest.raises(Exception, match="pickle"):
        list(decoded(lambda job: [job], [1]))
    assert values(decoded(jobs.identity, [1])) == [1]


@pytest.mark.parametrize("how", ["close", "forget", "raise"])
def test_a_call_that_is_left_half_way_leaves_nothing_behind(jobs: Any, how: str) -> None:
    results = decoded(jobs.long_clip, range(3))
    pid = os.getpid()
    assert next(results).value[0] == 0
    children = {process.pid for pool in list(pool_module._pools) for process in pool.processes if process}
    assert children
    assert pid not in children
    if how == "close":
        results.close()
    elif how == "forget":
        del results
    else:
        with pytest.raises(RuntimeError):
            results.throw(RuntimeError())
    assert values(decoded(jobs.count, [2, 1])) == [200, 201, 100]
    assert wait_for(lambda: not any(running(child) for child in children))


def test_processes_are_kept_and_a_dead_one_is_replaced(jobs: Any, tmp_path: Path) -> None:
    first = values(decoded(jobs.own_pid, range(4)))
    assert first[:2] == first[2:]
    assert len({*first, os.getpid()}) == 3
    os.kill(first[0], signal.SIGKILL)
    assert wait_for(lambda: gone(first[0]))
    second = values(decoded(jobs.own_pid, range(2)))
    assert second[1] == first[1]
    assert second[0] not in first
    os.kill(second[0], signal.SIGKILL)
    assert wait_for(lambda: gone(second[0]))
    found = values(decoded(jobs.die_once, [(2, str(tmp_path / "mark"))]))
    assert found == [20, 21, 22, 23], "the job is not to blame for the first death"


def test_ctrl_c_is_the_other_processs_business(jobs: Any) -> None:
    """That one may go on: Dask's workers do, and so does a script with a handler of its own."""
    first = values(decoded(jobs.own_pid, range(2)))
    for pid in first:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    assert values(decoded(jobs.own_pid, range(2))) == first


def test_a_call_inside_another_and_in_other_threads(jobs: Any) -> None:
    inner = [values(decoded(jobs.count, [outer.job])) for outer in decoded(jobs.count, [1, 2])]
    assert inner == [[100], [200, 201], [200, 201]]
    found: dict[int, list[int]] = {}

    def work(number: int) -> None:
        found[number] = values(decoded(jobs.slow_when_even, range(number, number + 10)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: list(range(number, number + 10)) for number in range(3)}


def test_jobs_see_the_current_folder_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, jobs: Any, tmp_path: Path
) -> None:
    assert values(decoded(jobs.folder, [1])) == [str(Path.cwd())]
    monkeypatch.chdir(tmp_path)
    assert values(decoded(jobs.folder, [1])) == [str(tmp_path)]
    assert values(decoded(jobs.environment, ["OMP_NUM_THREADS", "KULESHOV_STORE"])) == [
        "1",
        os.environ["KULESHOV_STORE"],
    ]


def test_processes_start_in_a_folder_with_other_modules_of_the_same_names(
    monkeypatch: pytest.MonkeyPatch, jobs: Any, tmp_path: Path
) -> None:
    for name in ("stages", "cache", "struct", "queue"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the wrong one')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert values(decoded(jobs.identity, [1])) == [1]


def test_what_decoders_print_stays_out_of_the_messages_and_of_sight(
    jobs: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert values(decoded(jobs.noise, [1, 2, 3])) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")
    assert values(decoded(jobs.standard_places, [1])) == [[os.devnull] * 3]


def test_what_decoders_print_is_shown_at_the_level_debug(
    caplog: pytest.LogCaptureFixture, jobs: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    assert values(decoded(jobs.noise, [1])) == [1]
    out, err = capfd.readouterr()
    assert (out, "to stdout" in err, "to stderr" in err) == ("", True, True)


def test_an_idle_process_is_small(jobs: Any) -> None:
    assert values(decoded(jobs.modules, ["torch", "h5py", "PIL", "pydantic"])) == [False] * 4


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, jobs: Any, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.write(2, b'no luck\\n')\nos._exit(7)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{HERE}")
    with pytest.raises(DecodingError, match=r"3 decoding processes ended while they started \(exit status 7: no luck"):
        list(decoded(jobs.identity, [1]))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(DecodingError, match="cannot be started"):
        list(decoded(jobs.identity, [1]))


@pytest.mark.parametrize("word", ["0", "-1", "two", "65", "1.5", "²"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("KULESHOV_DECODERS", word)
    with pytest.raises(SettingError, match=f"KULESHOV_DECODERS='{word}': give a whole number from 1 to 64"):
        usable_processes()


def test_one_process_for_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KULESHOV_DECODERS")
    for cores, number in ((1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cores=cores: set(range(cores)))
        assert usable_processes() == number
    monkeypatch.setenv("KULESHOV_DECODERS", "5")
    assert usable_processes() == 5


SCRIPT = """
import sys, time
from decoding_jobs import forever, identity
from stages.decoding.pool import decoded
for result in decoded(identity, [1, 2]):
    pass
{then}
"""


def start(then: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(then=then)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def test_nothing_is_left_of_a_killed_process(tmp_path: Path) -> None:
    """In the middle of a job, and another one that waits for work."""
    process = start("list(decoded(forever, ['pid']))", tmp_path)
    pid = tmp_path / "pid"
    assert wait_for(lambda: pid.exists() and pid.read_text(encoding="utf-8") != "", 30)
    own = children(process.pid)
    assert int(pid.read_text(encoding="utf-8")) in own
    assert len(own) == 2
    process.kill()
    process.communicate()
    assert wait_for(lambda: not any(running(child) for child in own))


def test_a_forked_process_does_not_keep_them_alive(tmp_path: Path) -> None:
    """As a DataLoader's worker: it has the pipes from its parent, and lives on when that one is killed."""
    process = start(
        "import os\nif os.fork() == 0:\n    time.sleep(60)\nprint('there', flush=True)\ntime.sleep(60)", tmp_path
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    own = children(process.pid)
    commands = {child: Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8") for child in own}
    workers = [child for child, command in commands.items() if "stages.decoding.worker" in command]
    [forked] = set(own) - set(workers)
    try:
        process.kill()
        process.wait()
        assert len(workers) == 2
        assert wait_for(lambda: not any(running(child) for child in workers), 5)
        assert running(forked)
    finally:
        os.kill(forked, signal.SIGKILL)
        process.communicate()


def test_ctrl_c_ends_a_call_without_a_word_of_the_processes(tmp_path: Path) -> None:
    # a shell starts what runs in the background with SIGINT ignored
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = start(f"{listen}list(decoded(forever, ['pid']))", tmp_path)
    pid = tmp_path / "pid"
    assert wait_for(lambda: pid.exists() and pid.read_text(encoding="utf-8") != "", 30)
    own = children(process.pid)
    for each in (*own, process.pid):  # as a terminal does
        os.kill(each, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said.count("Traceback") == 1
    assert said.strip().endswith("KeyboardInterrupt")
    assert wait_for(lambda: not any(running(child) for child in own))


@pytest.mark.parametrize(
    "then",
    [
        "pass",
        "results = decoded(forever, ['pid']); import threading\n"
        "threading.Thread(target=lambda: next(results), daemon=True).start(); time.sleep(0.3)",
        # a process forked from this one has processes of its own, and leaves these alone
        "import os\nif os.fork() == 0:\n    assert [r.value for r in decoded(identity, [5])] == [5]\n    sys.exit(0)\n"
        "assert os.wait()[1] == 0\nassert [r.value for r in decoded(identity, [6])] == [6]",
    ],
    ids=["idle", "busy", "fork"],
)
def test_a_process_ends_as_usual(then: str, tmp_path: Path) -> None:
    out, said = start(then, tmp_path).communicate(timeout=30)
    assert (out, said) == ("", "")
