"""Populations in several processes of one thread each: this one and others, kept from one call to the next."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from stages.decoding.process import Died, Process
from stages.decoding.wire import Call, End, Item, Raised
from stages.errors import KuleshovError, SettingError
from stages.train.inputs import InputRows, Level, LevelName
from stages.train.population.block import Block, Result
from stages.train.population.members import Member, Outcome, Plan
from stages.train.population.minibatch import Held

_Packed = list[tuple[Outcome, dict[str, np.ndarray]]]
_TABLES = ("faces", "offsets", "boxes", "global", "labels")


class TrainingProcessError(KuleshovError):
    """A process that trains heads cannot be started, or has died."""


class _Job(NamedTuple):
    """What another process is given.

    Attributes:
        folder: with `_TABLES` and the rows of `inputs` as files, which every process maps: all see the same pages of
            memory.
        views, levels: see `Features`.
        inputs: name -> level, of what else heads read.
        blocks: members of each block.
        plan: see `engine.train_population`.
    """

    folder: str
    views: int
    levels: Mapping[LevelName, Level]
    inputs: Mapping[str, LevelName]
    blocks: list[list[Member]]
    plan: Plan


class Processes:
    """This process and `number - 1` others. A context manager: on exit they end.

    The others take about two seconds to start, because they import torch, and are started by the first use. `start`
    does so at once, and waits for them.

    Args:
        number: at least 1. More than there are cores are of no use.

    Raises:
        SettingError: `number` is less than 1.
    """

    def __init__(self, number: int) -> None:
        if number < 1:
            raise SettingError(f"population: {number} processes; use 1 or more")
        self.number = number
        self._others: list[Process] = []
        self._shared: tuple[Held, np.ndarray, tempfile.TemporaryDirectory[str]] | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def others(self) -> list[int]:
        """Process numbers of the others that run."""
        return [other.pid for other in self._others]

    def start(self) -> None:
        """Start the others.

        Raises:
            TrainingProcessError: one cannot be started.
        """
        self._start()
        for other in self._others:
            other.send(Call(pickle.dumps(_greet), None, 0, None))
        for other in self._others:
            self._answers(other)

    def close(self) -> None:
        """End the others, whatever they do, and remove the files they share."""
        for other in self._others:
            other.end()
        for other in self._others:
            other.join()
        self._others = []
        if self._shared is not None:
            self._shared[2].cleanup()
            self._shared = None

    def run(self, blocks: Sequence[list[Member]], source: Held, labels: np.ndarray, plan: Plan) -> list[list[Result]]:
        """Train blocks of members, block i in process i modulo their number; for each block its members' results.

        Raises:
            TrainingProcessError: a process cannot be started, or has died.
        """
        self._start()
        folder = self._share(source, labels)
        levels: dict[LevelName, Level] = {n: replace(one, places=one.places[:0]) for n, one in source.levels.items()}
        inputs: dict[str, LevelName] = {name: one.level for name, one in source.inputs.items()}
        found: list[list[Result]] = [[] for _ in blocks]
        try:
            for place, other in enumerate(self._others, 1):
                job = _Job(folder, source.views, levels, inputs, list(blocks[place :: self.number]), plan)
                other.send(Call(pickle.dumps(_train), None, 0, job))
            for i in range(0, len(blocks), self.number):
                found[i] = Block(blocks[i], source, labels, plan).run()
            for place, other in enumerate(self._others, 1):
                found[place :: self.number] = [_unpacked(answer) for answer in self._answers(other)]
        except BaseException:
            self.close()
            raise
        return found

    def _start(self) -> None:
        try:
            while len(self._others) < self.number - 1:
                self._others.append(Process())
        except OSError as error:
            self.close()
            raise TrainingProcessError(f"a process cannot be started ({error}); train in fewer processes") from error

    def _answers(self, other: Process) -> list[Any]:
        """What the other's function yielded, when it is through."""
        answers = []
        while not isinstance(message := other.take(), End):
            if isinstance(message, Died):
                said = f": {message.said}" if message.said else ""
                raise TrainingProcessError(
                    f"a process that trains heads ended with {message.how}{said}; train in fewer processes"
                )
            if isinstance(message, Raised):
                message.error.add_note(f"In a training process:\n{message.trace}")
                raise message.error
            answers.append(cast(Item, message).value)
        return answers

    def _share(self, source: Held, labels: np.ndarray) -> str:
        """The folder with the features in files; written once for the same source and labels."""
        if self._shared is None or self._shared[0] is not source or self._shared[1] is not labels:
            if self._shared is not None:
                self._shared[2].cleanup()
            folder = tempfile.TemporaryDirectory(prefix="kuleshov-population-")
            for name, array in zip(_TABLES, (*source.arrays, labels), strict=True):
                np.save(Path(folder.name) / f"{name}.npy", array)
            for number, one in enumerate(source.inputs.values()):
                np.save(Path(folder.name) / f"input{number}.npy", np.asarray(one.rows))
            self._shared = (source, labels, folder)
        return self._shared[2].name


def _greet(_: None) -> Iterator[int]:
    """In another process: what it takes to be ready."""
    yield os.getpid()


def _train(job: _Job) -> Iterator[_Packed]:
    """In another process: train the blocks, one after the other."""
    torch.set_num_threads(1)
    faces, offsets, boxes, global_, labels = (_mapped(job.folder, name) for name in _TABLES)
    inputs = {
        name: InputRows(level, _mapped(job.folder, f"input{number}"))
        for number, (name, level) in enumerate(job.inputs.items())
    }
    source = Held(faces, offsets, boxes, global_, job.views, inputs=inputs, levels=job.levels)
    for block in job.blocks:
        results = Block(block, source, labels, job.plan).run()
        yield [(outcome, {name: t.numpy() for name, t in state.items()}) for outcome, state in results]


def _mapped(folder: str, name: str) -> np.ndarray:
    # copied when written to, which nobody does: torch takes no array that may not be written to
    return np.asarray(np.load(Path(folder) / f"{name}.npy", mmap_mode="c"))


def _unpacked(packed: _Packed) -> list[Result]:
    return [(outcome, {name: torch.from_numpy(a) for name, a in state.items()}) for outcome, state in packed]
