"""Parts of a stage's work, computed somewhere else: what a stage and the place that computes agree on.

A stage cuts what is missing into parts. A part travels as a few small things (samples, keys, settings, places); whoever
computes it opens the store itself, writes shards of its own and gives back a small answer. Rows never travel.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cache.errors import StorePlaceError
from cache.keys import BlockSpec
from cache.store import Store
from stages.errors import SettingError
from stages.progress import counter

W = TypeVar("W")
R = TypeVar("R")


@dataclass(frozen=True)
class Part(Generic[W]):
    """A run of items that one worker computes.

    Attributes:
        work: what the part's function takes; picklable.
        size: how many items it has.
        first: the sample_id of its first item, for messages.
    """

    work: W
    size: int
    first: str


class Spread(Protocol):
    """Where parts are computed (`pipeline/cluster.py` has the one through Dask)."""

    def workers(self) -> int:
        """How many parts are computed at once, at least 1. Starts the workers, or finds them."""
        ...

    def run(self, function: Callable[[W], R], parts: Sequence[Part[W]]) -> Iterator[tuple[int, R]]:
        """Call a picklable function on each part's work; yields (number of the part, answer) as they complete.

        A part whose worker dies is computed again by another: the function leaves out what is in the store. What it
        raises on purpose is raised here, as the same type.
        """
        ...


def cut(total: int, size: int, workers: int) -> list[slice]:
    """Runs of about equal length, of at most `size` items each, that cover `total` items in order.

    Their number is a multiple of the workers, so that those end together, but no run is empty.
    """
    wanted = -(-total // size)
    number = min(-(-wanted // workers) * workers, total)
    return [slice(total * i // number, total * (i + 1) // number) for i in range(number)]


def gather(spread: Spread, function: Callable[[W], R], parts: Sequence[Part[W]], *, desc: str, unit: str) -> list[R]:
    """The answers of all parts in the order of the parts, behind a bar that counts items as parts complete."""
    answers: dict[int, R] = {}
    with counter(total=sum(part.size for part in parts), desc=desc, unit=unit) as bar:
        for number, answer in spread.run(function, parts):
            answers[number] = answer
            bar.update(parts[number].size)
    return [answers[number] for number in range(len(parts))]


def announce(store: Store, specs: Sequence[BlockSpec]) -> None:
    """Make the folders of blocks before parts are handed out: workers look for them (`require_store`).

    Raises:
        StorePlaceError: the store may not be written.
    """
    for spec in specs:
        store.writer(spec)


def require_same(same: bool, what: str) -> None:
    """Check, on a worker, that it would compute what the block's key says.

    Raises:
        SettingError: it is not the same.
    """
    if not same:
        raise SettingError(
            f"{what}: worker {platform.node()} has another version of kuleshov, which computes other values; install "
            "the same version on every machine and start the workers again"
        )


def require_store(store: Store, specs: Sequence[BlockSpec]) -> None:
    """Check, on a worker, that it sees the store of the process that handed out the part, and those that lie under it.

    Raises:
        StorePlaceError: a folder is another one here, or is not there. Nothing is made in it.
    """
    for place in store.shared:
        if not (place / "store.json").is_file():
            raise StorePlaceError(
                f"{place}: worker {platform.node()} sees no shared store there; make it visible to all machines under "
                "one path, or take it out of KULESHOV_STORE_SHARED"
            )
    for spec in specs:
        if not (store.place(spec) / "block.json").is_file():
            raise StorePlaceError(
                f"{store.root}: not the store of the process that started this, as worker {platform.node()} sees it; "
                "set KULESHOV_STORE to a folder that all machines share under one path"
            )


def require_written(store: Store, missing: int) -> None:
    """Check, after all parts, that what the workers wrote is here.

    Raises:
        StorePlaceError: `missing` items, more than none, were computed and are not in this store.
    """
    if missing:
        raise StorePlaceError(
            f"{store.root}: {missing} items that workers computed are not here; run the stage again (a network folder "
            "may show new files late), or set KULESHOV_STORE to a folder that all machines share"
        )
