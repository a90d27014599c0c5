"""What happened in training, as rows for tables and for `dvc plots`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stages.tables import write_csv


class StepRow(NamedTuple):
    """The steps since the row before.

    Attributes:
        iteration: steps done.
        epoch: counted from 1.
        loss: mean of the answers', with margin and class weights.
        accuracy: share of answers that are right; with a margin, of the harder ones that the loss sees.
        learning_rate, head_learning_rate: of the last of the steps.
    """

    iteration: int
    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    head_learning_rate: float


class EpochRow(NamedTuple):
    """One epoch, counted from 1: see `StepRow`.

    Attributes:
        val_loss: of plain logits, without class weights; None: nothing to judge by.
        val_accuracy: see `val_loss`.
    """

    epoch: int
    iteration: int
    loss: float
    accuracy: float
    learning_rate: float
    head_learning_rate: float
    val_loss: float | None
    val_accuracy: float | None


@dataclass
class History:
    """All rows.

    Attributes:
        steps: a row for each so many steps.
        epochs: a row for each epoch.
        best_epoch: whose weights were kept; None: the last ones.
        stopped_early: whether the validation loss no longer fell.
        gone_on: the steps that an earlier run had done, where this one went on from a checkpoint.
    """

    steps: list[StepRow] = field(default_factory=list)
    epochs: list[EpochRow] = field(default_factory=list)
    best_epoch: int | None = None
    stopped_early: bool = False
    gone_on: int = field(default=0, compare=False)

    def write(self, folder: Path) -> None:
        """Write `steps.csv` and `epochs.csv`, which `dvc plots` shows."""
        write_csv(folder / "steps.csv", StepRow._fields, self.steps)
        write_csv(folder / "epochs.csv", EpochRow._fields, self.epochs)

    def plain(self) -> dict[str, object]:
        """Lists and numbers only; `of_plain` reads them."""
        return {
            "steps": [list(row) for row in self.steps],
            "epochs": [list(row) for row in self.epochs],
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early,
        }

    @staticmethod
    def of_plain(plain: dict[str, object]) -> History:
        """What `plain` gave."""
        made = History(**plain)  # pyright: ignore[reportArgumentType]
        made.steps = [StepRow(*row) for row in made.steps]
        made.epochs = [EpochRow(*row) for row in made.epochs]
        return made


@dataclass
class Sums:
    """Loss and right answers summed over some steps."""

    loss: float = 0.0
    right: int = 0
    answers: int = 0

    def add(self, loss: float, right: int, answers: int) -> None:
        """One batch's."""
        self.loss += loss
        self.right += right
        self.answers += answers

    def means(self) -> tuple[float, float]:
        """Loss and accuracy; 0 and 0 where no sample had an answer."""
        return self.loss / max(1, self.answers), self.right / max(1, self.answers)
