"""Where the parts of a stage are computed: worker processes of this machine, or those of a dask.distributed scheduler.

Dask is imported when workers are asked for and there is something to compute, not before. Workers open the store
themselves: what travels is samples, keys and settings one way, failures the other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from stages.decoding.pool import ENVIRONMENT, processes_for
from stages.device import cuda_devices
from stages.errors import KuleshovError, SettingError
from stages.spread import Part

if TYPE_CHECKING:
    from distributed import Client, Future, Nanny

W = TypeVar("W")
R = TypeVar("R")

CONNECT_SECONDS = 5.0
"""How long a scheduler may take to answer, and to have a first worker."""
NO_WORKER_SECONDS = 30.0
"""How long it may be without a worker while there is work: a nanny starts a dead one again in a few seconds."""
LOOK_SECONDS = 2.0
"""How often the workers are counted while none of them is done with a part."""
AHEAD = 2
"""Parts that are with the scheduler, for each worker: the next one is there when one is done."""

_ADDRESS = re.compile(r"(tcp|tls)://[^\s/]+:\d{1,5}")
_LOOPBACK = "127.0.0.1"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_DASKS = ("MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")


class ClusterError(KuleshovError):
    """The scheduler or its workers cannot be reached, or a part ends every worker that takes it."""


class Cluster:
    """The workers of a command, as stages see them (`stages.spread.Spread`). Leaving the `with` block ends local ones.

    Args:
        scheduler: address of a running scheduler, `tcp://HOST:PORT`.
        workers: where there is none: how many processes to start here.

    Raises:
        SettingError: `scheduler` is no address.
        ClusterError: from `workers` and `run`, which start or reach them.
    """

    def __init__(self, scheduler: str | None = None, workers: int = 1) -> None:
        if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
            raise SettingError(f"--scheduler {scheduler!r}: give the address that dask scheduler says, tcp://HOST:PORT")
        self._address = scheduler
        self._wanted = workers
        self._stack = ExitStack()
        self._running: Client | None = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        self._stack.__exit__(kind, error, trace)

    def workers(self) -> int:
        """How many worker processes there are now, at least 1."""
        return max(1, _count(self._client()))

    def run(self, function: Callable[[W], R], parts: Sequence[Part[W]]) -> Iterator[tuple[int, R]]:
        """Call `function` on each part's work; yields (number of the part, answer) as they complete.

        Raises:
            ClusterError: no worker is left, the scheduler is gone, or a part ended its workers several times.
            Exception: what the function raised, as it raised it.
        """
        client = self._client()
        numbers = iter(range(len(parts)))
        running: dict[Future, int] = {}
        try:
            while True:
                for number in islice(numbers, max(0, AHEAD * self.workers() - len(running))):
                    # pickled here: Dask would look for its own keys in every list and dict
                    payload = pickle.dumps((function, parts[number].work))
                    running[client.submit(_compute, payload, pure=False)] = number
                if not running:
                    return
                for future in self._done(client, running):
                    number = running.pop(future)
                    yield number, self._answer(future, parts[number])
        except (OSError, CancelledError) as error:
            from distributed.comm.core import CommClosedError

            if not isinstance(error, CommClosedError | CancelledError) and client.status == "running":
                raise  # the function's own
            raise ClusterError(
                f"{self._place(client)}: the scheduler is gone; what was recorded is kept, run the command again"
            ) from error
        finally:
            if running and client.status == "running":
                client.cancel(list(running))

    def _client(self) -> Client:
        if self._running is None:
            if self._address is None:
                self._running = self._stack.enter_context(_local(self._wanted))
            else:
                self._running = self._stack.enter_context(_connected(self._address))
        return self._running

    def _place(self, client: Client) -> str:
        return self._address or str(client.scheduler.address if client.scheduler else "the local cluster")

    def _done(self, client: Client, running: Collection[Future]) -> Collection[Future]:
        """Wait for the first parts to be done, as long as there are workers."""
        from distributed import wait

        since = time.monotonic()
        while True:
            try:
                with client.as_current():
                    states: Any = wait(list(running), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")
                return states.done
            except TimeoutError:
                if _count(client):
                    since = time.monotonic()
                elif time.monotonic() - since > NO_WORKER_SECONDS:
                    raise ClusterError(
                        f"{self._place(client)}: no worker is left; what they recorded is kept, start workers and run "
                        "the command again"
                    ) from None

    def _answer(self, future: Future, part: Part[Any]) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"the part of {part.size} items that starts with {part.first!r} ended {error.allowed_failures + 1} "
                "workers; see their logs (memory is the usual cause: use fewer workers or a smaller batch_size), then "
                "run the command again, it goes on with what is missing"
            ) from error
        except ModuleNotFoundError as error:
            raise ClusterError(
                f"a worker has no module {error.name!r}; install the same version of kuleshov on every machine"
            ) from error


_alone = threading.Lock()


def _compute(payload: bytes) -> Any:
    """On a worker: one part at a time, however many threads it has. torch's precision is set for the whole process."""
    function, work = pickle.loads(payload)  # noqa: S301 - written by `Cluster.run`; Dask itself runs what it is sent
    with _alone:
        return function(work)


def _count(client: Client) -> int:
    workers: Any = client.nthreads()
    return len(workers)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """A client of a running scheduler that has workers.

    Raises:
        ClusterError: nothing answers there, or there are no workers.
    """
    from distributed import Client, Security

    _quiet()
    if address.startswith("tls:") and Security().get_connection_args("client").get("ssl_context") is None:
        raise ClusterError(
            f"--scheduler {address}: give Dask its certificates first (distributed.comm.tls of its settings)"
        )
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise ClusterError(
            f"--scheduler {address}: no scheduler answers there ({' '.join(str(error).split())[:120]}); start one with "
            "dask scheduler and give the address that it says"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise ClusterError(
                f"--scheduler {address}: the scheduler has no workers; start some with dask worker {address} "
                "--nthreads 1"
            ) from None
        yield client


@contextmanager
def _local(number: int) -> Iterator[Client]:
    """A client of a scheduler in this process and worker processes of this machine, which end with the block."""
    from dask.system import CPU_COUNT
    from distributed import Client, Nanny, Scheduler, SpecCluster

    level, threads = _quiet(), CPU_COUNT // number
    with TemporaryDirectory(prefix="kuleshov-", ignore_cleanup_errors=True) as folder, _environment(threads, level):
        common = {
            "host": _LOOPBACK,
            "nthreads": 1,
            "memory_limit": 0,
            "dashboard": False,
            "local_directory": folder,
        }
        workers = {i: {"cls": Nanny, "options": {**common, "env": _gpu(i)}} for i in range(number)}
        options = {"host": _LOOPBACK, "port": 0, "dashboard": False, "dashboard_address": f"{_LOOPBACK}:0"}
        scheduler = {"cls": Scheduler, "options": options}
        try:
            with _undisturbed():
                cluster = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=level)
        except RuntimeError as error:
            raise ClusterError(f"--workers {number}: {error}; use fewer workers, or none") from error
        with cluster, Client(cluster, set_as_default=False) as client:
            try:
                yield client
            except BaseException:
                cluster.sync(_kill, list(cluster.workers.values()))
                raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: Dask cannot end workers that are half started.

    It reaches workers too, and they leave it to this process: threads that start in the block, and their children, have
    the signal blocked.
    """
    resource_tracker.ensure_running()  # the first process would start it, and that unblocks the signal
    pressed: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number)) if is_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, handler)
        if pressed:
            raise KeyboardInterrupt


async def _kill(nannies: Sequence[Nanny]) -> None:
    """End worker processes at once; Dask's own way waits seconds for the end of their parts, and then does the same."""
    await asyncio.gather(*(nanny.kill(timeout=1) for nanny in nannies), return_exceptions=True)


@contextmanager
def _environment(threads: int, level: int) -> Iterator[None]:
    """What processes started in the block find: how many threads to compute with, how many decoding processes each may
    have where the user has not said it, and what Dask may say.

    Dask changes this process's environment for its workers, which is put back as well.
    """
    words = {name: str(max(1, threads)) for name in _THREADS}
    words[ENVIRONMENT] = os.environ.get(ENVIRONMENT) or str(processes_for(threads))
    words["DASK_LOGGING__DISTRIBUTED"] = logging.getLevelName(level).lower()
    before = {name: os.environ.get(name) for name in (*words, *_DASKS)}
    os.environ.update(words)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _gpu(number: int) -> dict[str, str]:
    """What a local worker sees of the GPUs that this process sees: one of them."""
    count = cuda_devices()
    if not count:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",")[:count] if given else [str(i) for i in range(count)]
    return {"CUDA_VISIBLE_DEVICES": names[number % count].strip()}


def _quiet() -> Any:
    """Dask says each of its steps by default; here nothing, for its errors come back as such, or what a --log-level
    below the usual asks for. Returns the level."""
    level = logging.getLogger().getEffectiveLevel()
    level = level if level < logging.WARNING else logging.CRITICAL
    logging.getLogger("distributed").setLevel(level)
    return level
