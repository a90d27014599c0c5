"""Which candidate of a grid a head is: the best on samples that it was not trained on and that are not reported."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import DataError, SettingError
from stages.tables import write_csv
from stages.train.settings import ChooseSettings

OWN_COLUMNS = ("candidate", "score", "sd", "loss", "runs", "n", "by", "chosen")
"""Of a table of candidates, beside what each sets; a setting of the same name is called `train.NAME` there."""


@dataclass
class Tried:
    """A candidate and how it did.

    Attributes:
        values: what it sets.
        scores, losses: of each run: a seed, or a seed and fold; NaN where training broke down. See `judging.judge`.
    """

    values: dict[str, Any]
    scores: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The mean of the runs, NaN if one of them broke down."""
        return float(np.mean(self.scores))

    @property
    def deviation(self) -> float | None:
        """Of the runs' scores; None for one run."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Choice:
    """What became of a head's grid.

    Attributes:
        tried: every candidate.
        best: the number of the one that the head is.
        score: what they were compared by.
        where: the samples they were judged by, for people.
        n: how many these are.
    """

    tried: list[Tried]
    best: int
    score: str
    where: str
    n: int

    @property
    def by(self) -> str:
        """What they were compared by, and where."""
        return f"{self.score} on {self.where}" if self.score else ""

    @property
    def said(self) -> str:
        """The choice in one line: the best, of how many, by what, of how many samples."""
        one = self.tried[self.best]
        values = ", ".join(f"{key} {value}" for key, value in one.values.items())
        deviation = "" if one.deviation is None else f", sd {one.deviation:.3f} over {len(one.scores)} runs"
        return f"{values}: best of {len(self.tried)} candidates by {self.by} ({one.score:.3f}{deviation}; n = {self.n})"


NO_CHOICE = Choice([Tried({})], 0, "", "", 0)
"""Of a head without a grid: it is the only candidate."""


def score_name(head: str, settings: ChooseSettings, several: bool, losses: Collection[str]) -> str:
    """The score that `auto` stands for.

    Args:
        head: its name, for messages.
        losses: kinds of loss that the candidates of a head of several labels are trained with.

    Raises:
        SettingError: it is not one of samples of several labels, or losses of several kinds were to be compared.
    """
    if several and settings.score == "loss" and len(losses) > 1:
        raise SettingError(
            f"train.choose.score is loss, and train.heads.{head}.grid tries {' and '.join(sorted(losses))}, losses of "
            "several labels that cannot be compared: use auto"
        )
    if several and settings.score not in ("auto", "loss"):
        raise SettingError(
            f"train.choose.score is {settings.score}, and train.heads.{head} has a grid and is trained on several "
            "labels: use auto or loss"
        )
    return ("mean average precision" if several else "accuracy") if settings.score == "auto" else settings.score


def best_of(head: str, tried: Sequence[Tried], score: str, by_loss: bool = True) -> int:
    """The number of the best candidate; see `ChooseSettings.score`.

    Args:
        by_loss: of equals take the one with the lower loss; else the first.

    Raises:
        SettingError: training broke down for every candidate.
    """
    sign = 1 if score == "loss" else -1
    good = [i for i, one in enumerate(tried) if math.isfinite(one.score)]
    if not good:
        raise SettingError(f"train.heads.{head}.grid: the loss of every candidate is NaN or infinite; lower its rates")
    return min(good, key=lambda i: (sign * tried[i].score, float(np.mean(tried[i].losses)) if by_loss else 0.0, i))


def write(path: Path, choice: Choice) -> None:
    """Write the candidates of a head: what each sets, its mean score and loss, their deviation, how many runs and
    different samples these are of, and what was compared."""
    keys = [*choice.tried[0].values]
    named = (f"train.{key}" if key in OWN_COLUMNS else key for key in keys)

    def row(number: int, one: Tried) -> tuple[str, ...]:
        found = (one.score, one.deviation, float(np.mean(one.losses))) if one.scores else (None, None, None)
        numbers = ("" if value is None else f"{value:.6g}" for value in found)
        set_to = (str(one.values[key]) for key in keys)
        chosen = "yes" if number == choice.best else ""
        return (str(number), *set_to, *numbers, str(len(one.scores)), str(choice.n), choice.by, chosen)

    columns = (OWN_COLUMNS[0], *named, *OWN_COLUMNS[1:])
    write_csv(path, columns, (row(number, one) for number, one in enumerate(choice.tried)))


@dataclass(frozen=True)
class Chosen:
    """A head's choice as a table of candidates tells it.

    Attributes:
        candidates: how many there were.
        by: what they were compared by, and where.
        n: samples they were judged by.
        values: setting -> what the best one has.
    """

    candidates: int
    by: str
    n: int
    values: dict[str, str]


def read_all(folder: Path) -> dict[str, Chosen]:
    """Head -> its choice, of the tables that `write` wrote to a folder.

    Raises:
        DataError: a file that is none of these tables.
    """
    return {path.stem: _read(path) for path in sorted(folder.glob("*.csv"))}


def _read(path: Path) -> Chosen:
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        [best] = [row for row in rows if row["chosen"]]
        values = {key: value for key, value in best.items() if key not in OWN_COLUMNS}
        return Chosen(len(rows), best["by"], int(best["n"]), values)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no table of candidates ({error}); run kuleshov train again") from None
