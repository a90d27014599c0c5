"""The feature store beside its rivals: np.memmap over .npy, np.save, and one HDF5 group per photo.

    python -m benchmarks.store            times, side by side in this process, with their ratios
    python -m benchmarks.store --memory   peak memory of the writer and of readers, see benchmarks.memory

20,000 synthetic photos with 5 faces on average, 512 float16 numbers a face. Every round runs each way once, in an order
that turns; a time is the median over the rounds. `ratio` is the rival's time divided by ours: above 1, ours is faster.
Files are in the page cache, as on a second run. Where a rival can be read in several ways, the fastest counts.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import h5py
import numpy as np

from benchmarks import memory
from cache import shard
from cache.block import Block
from cache.keys import BlockSpec, item_key
from cache.store import Store

ITEMS, FACES, DIM = 20_000, 5, 512
BATCH = 32
Ways = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Data:
    """Synthetic rows (R, 512) float16 of photos: photo i has `rows[offsets[i]:offsets[i + 1]]`."""

    keys: list[bytes]
    rows: np.ndarray
    offsets: np.ndarray


def draw(items: int, seed: int = 0) -> Data:
    """`items` photos with a Poisson number of faces, 5 on average."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.poisson(FACES, items))]).astype(np.int64)
    rows = rng.standard_normal((int(offsets[-1]), DIM), np.float32).astype(np.float16)
    return Data([item_key(f"{seed}-{i}") for i in range(items)], rows, offsets)


def spec(name: str = "synthetic") -> BlockSpec:
    """The block that the benchmark writes."""
    return BlockSpec(name, "embedding", "face", (DIM,), 1, numerics={"dtype": "float16"})


def write_block(store: Store, block: BlockSpec, data: Data) -> None:
    """Write as the extractor does, photo by photo."""
    with store.writer(block) as writer:
        ends = data.offsets.tolist()
        for i, key in enumerate(data.keys):
            writer.add(key, data.rows[ends[i] : ends[i + 1]])


def write_npy(path: Path, rows: np.ndarray) -> None:
    """np.save and fsync."""
    with open(path, "wb") as handle:
        np.save(handle, rows)
        handle.flush()
        os.fsync(handle.fileno())


def write_groups(path: Path, data: Data) -> None:
    """One HDF5 group per photo, the layout to compare with."""
    with h5py.File(path, "w") as file:
        for i, key in enumerate(data.keys):
            file.create_group(key.hex()).create_dataset("x", data=data.rows[data.offsets[i] : data.offsets[i + 1]])


def timed(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round. The order turns by one each round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            gc.collect()
            start = time.perf_counter()
            result = ways[name]()
            took = time.perf_counter() - start
            del result
            if number:
                seconds[name].append(took)
    return seconds


class Bench:
    """Everything to measure, in a folder that is removed afterwards."""

    def __init__(self, folder: Path, items: int, rounds: int, batches: int) -> None:
        self.data, self.folder, self.rounds, self.items = draw(items), folder, rounds, items
        self.store, self.batches = Store(folder / "store"), batches
        write_npy(folder / "rows.npy", self.data.rows)
        write_block(self.store, spec(), self.data)
        self.block = self.store.open(spec())
        self.seconds: dict[str, list[float]] = {}
        self.count = 0

    def load(self) -> None:
        """Whole loads: opened before, opened without a check, opened with its check. Every byte is copied."""
        mapped = np.load(self.folder / "rows.npy", mmap_mode="r")

        def first(checked: bool) -> np.ndarray:
            if checked:
                shard._checked.clear()
            return copied(self.store.open(spec()))

        ways: Ways = {
            "load all: np.memmap": lambda: np.array(mapped),
            "load all: block": lambda: copied(self.block),
            "open and load all: np.memmap": lambda: np.array(np.load(self.folder / "rows.npy", mmap_mode="r")),
            "open and load all: block": lambda: first(False),
            "open, check and load all: block": lambda: first(True),
        }
        assert np.array_equal(self.block.rows(self.data.keys)[0], mapped)
        assert copied(self.block).shape == mapped.shape  # the same rows, shard by shard in the order of their names
        self.seconds |= timed(ways, self.rounds)

    def minibatch(self) -> None:
        """Random batches of 32 photos: rows of all their faces, in memory.

        np.memmap is asked by a photo's number. So is the block, by `rows_at`; a second line looks keys up each time.
        """
        rng = np.random.default_rng(1)
        drawn = [rng.integers(0, self.items, BATCH) for _ in range(self.batches)]
        keys = np.array(self.data.keys, dtype=self.block.keys.dtype)
        positions = self.block.find(keys)
        mapped = np.load(self.folder / "rows.npy", mmap_mode="r")
        plain, offsets = np.asarray(mapped), self.data.offsets
        write_groups(self.folder / "groups.h5", self.data)
        with h5py.File(self.folder / "groups.h5", "r") as file:
            readers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
                "minibatch: np.memmap, one index": lambda b: mapped[row_index(offsets, b)],
                "minibatch: np.memmap as array, one index": lambda b: plain[row_index(offsets, b)],
                "minibatch: np.memmap as array, slices": lambda b: slices(plain, offsets, b),
                "minibatch: block": lambda b: self.block.rows_at(positions[b])[0],
                "minibatch: block, keys looked up": lambda b: self.block.rows(keys[b])[0],
            }
            groups = {"minibatch: groups": lambda b: np.concatenate([_group(file, self.data.keys[i]) for i in b])}
            for reader in (*readers.values(), *groups.values()):
                assert np.array_equal(reader(drawn[0]), slices(plain, offsets, drawn[0]))
            few = drawn[: max(self.batches // 20, 1)]
            found = timed({name: _over(reader, drawn) for name, reader in readers.items()}, self.rounds)
            slow = timed({name: _over(reader, few) for name, reader in groups.items()}, 3)
        self.seconds |= {name: [s / len(drawn) for s in some] for name, some in found.items()}
        self.seconds |= {name: [s / len(few) for s in some] for name, some in slow.items()}

    def write(self) -> None:
        """All rows to disk, durably."""

        def block() -> None:
            self.count += 1
            write_block(self.store, spec(f"written{self.count}"), self.data)

        ways: Ways = {
            "write: np.save + fsync": lambda: write_npy(self.folder / f"{time.monotonic_ns()}.npy", self.data.rows),
            "write: block": block,
        }
        self.seconds |= timed(ways, self.rounds)

    def ratios(self) -> dict[str, float]:
        """Rival's median over ours. `load_all_checked` compares with the same first load without the check."""
        mid = {name: median(some) for name, some in self.seconds.items()}
        rival = min(value for name, value in mid.items() if name.startswith("minibatch: np.memmap"))
        return {
            "load_all": mid["load all: np.memmap"] / mid["load all: block"],
            "load_all_checked": mid["open and load all: block"] / mid["open, check and load all: block"],
            "minibatch": rival / mid["minibatch: block"],
            "minibatch_vs_groups": mid["minibatch: groups"] / mid["minibatch: block"],
            "write": mid["write: np.save + fsync"] / mid["write: block"],
        }


def copied(block: Block) -> np.ndarray:
    """The whole block in memory: `all_rows`, copied where that is a view of the map."""
    rows = block.all_rows()[1]
    return rows if rows.flags.writeable else rows.copy()


def row_index(offsets: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """Numbers of all rows of some photos."""
    starts, counts = offsets[photos], offsets[photos + 1] - offsets[photos]
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1])


def slices(rows: np.ndarray, offsets: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """The same rows, a slice a photo."""
    pairs = zip(offsets[photos].tolist(), offsets[photos + 1].tolist(), strict=True)
    return np.concatenate([rows[start:stop] for start, stop in pairs])


def _group(file: h5py.File, key: bytes) -> np.ndarray:
    return np.asarray(file[f"{key.hex()}/x"])


def _over(reader: Callable[[np.ndarray], np.ndarray], drawn: list[np.ndarray]) -> Callable[[], None]:
    def run() -> None:
        for photos in drawn:
            reader(photos)

    return run


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--items", type=int, default=ITEMS, help="photos (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each measurement (default %(default)s)")
    parser.add_argument("--batches", type=int, default=1000, help="minibatches a round (default %(default)s)")
    options = parser.parse_args()
    if options.memory:
        memory.compare()
        return
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options.items, options.rounds, options.batches)
        for part in (bench.load, bench.minibatch, bench.write):
            part()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    size = bench.data.rows.nbytes / 2**20
    print(f"{options.items:,} photos, {len(bench.data.rows):,} rows of {DIM} float16, {size:.0f} MiB")
    print(f"{'what':<44}{'median s':>12}{'fastest s':>12}{'n':>4}")
    for name, some in bench.seconds.items():
        print(f"{name:<44}{median(some):>12.6f}{min(some):>12.6f}{len(some):>4}")
    for name, ratio in bench.ratios().items():
        print(f"ratio: {name} {ratio:.2f}")


if __name__ == "__main__":
    main()
