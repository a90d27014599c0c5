"""The training loop over pixels: SGD from a seed, with checkpoints from which it goes on to the same weights.

Same seed, same settings and same data give the same bits on a CPU with the same number of threads: torch's own number,
since a backbone's step is made of large sums (heads alone train on one thread, see `stages/train/answering.py`).
On CUDA convolutions are the same each time, but some sums are not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from stages.backbones.states import load_strictly
from stages.device import full_float32, require, resolve
from stages.errors import DataError, SettingError
from stages.finetune import checkpoint as files
from stages.finetune.batch import Draw, PixelBatch, PixelSet, cut
from stages.finetune.checkpoint import Checkpoint
from stages.finetune.history import EpochRow, History, StepRow, Sums
from stages.finetune.network import Network, class_weights
from stages.finetune.pixels import require_all_classes
from stages.finetune.schedule import factor
from stages.finetune.settings import FinetuneSettings
from stages.finetune.stopping import hint_for_memory, hint_for_nan, interrupts, out_of_memory
from stages.heads.batch import HeadOutput
from stages.heads.losses import CrossEntropy, Soft, learnt
from stages.progress import counter


@dataclass(frozen=True)
class Every:
    """How often something is written; a number of steps, or of seconds, whichever comes first.

    Attributes:
        seconds: between checkpoints within an epoch. When they are written changes no weights.
        iterations: as `seconds`; None: by time alone.
        log: steps of a row of `History.steps`.
    """

    seconds: float = 300.0
    iterations: int | None = None
    log: int = 20


def fit(
    network: Network,
    train: PixelSet,
    val: PixelSet | None,
    settings: FinetuneSettings,
    folder: Path,
    *,
    about: Mapping[str, str] | None = None,
    every: Every | None = None,
    shown: bool = True,
) -> History:
    """Train a network in place, or go on where an earlier call was stopped; it is left in eval mode on the device.

    After Ctrl-C the step is ended and a checkpoint written before KeyboardInterrupt goes out; a second one goes out at
    once. The checkpoint stays when all is done: whoever stores the weights removes `folder`.

    Args:
        network: as it starts; what a checkpoint says overwrites it.
        train: whose samples of a class from 0 on are trained on; -1 is a sample without one.
        val: judged after each epoch; None: nothing is.
        settings: how to train. What only `start` and the sets read is not read here.
        folder: of the checkpoint, `checkpoint.FILE`.
        about: what else a checkpoint must agree in, such as `checkpoint.data_hash` of the samples.
        every: how often to write.
        shown: whether a bar may be shown.

    Raises:
        SettingError: a setting cannot be used here, the loss is no longer a number, or memory is too small; or the
            checkpoint is of other settings or data.
        DataError: a class has no sample, or there are fewer than two samples.
        WeightsError: the checkpoint is damaged.
    """
    device = resolve(settings.device)
    require("finetune", device)
    rows = _check(network, train, val, settings, device)
    training = _Training(network.to(device), settings, rows, train.labels, folder, dict(about or {}), every or Every())
    with (
        full_float32() if device == "cuda" else nullcontext(),
        torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device == "cuda" else []),
        interrupts() as interrupted,
        counter(total=training.total, desc="fine-tune", unit="step", shown=shown) as bar,
    ):
        training.resume()
        training.history.gone_on = training.iteration
        bar.initial = bar.n = training.iteration
        try:
            while not training.finished:
                for batches in training.steps(train):
                    training.step(batches)
                    bar.set_postfix(training.running(), refresh=False)
                    bar.update()
                    if interrupted() or training.due():
                        training.save()
                    if interrupted():
                        raise KeyboardInterrupt
                training.end_epoch(val)
                if interrupted():
                    raise KeyboardInterrupt
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise SettingError(hint_for_memory(settings, device)) from error
    network.eval()
    return training.history


@dataclass
class _Training:
    """A training's state: with the random generators, all that a checkpoint holds."""

    network: Network
    settings: FinetuneSettings
    rows: np.ndarray
    labels: np.ndarray
    folder: Path
    about: dict[str, str]
    every: Every
    epoch: int = 0
    batch: int = 0
    iteration: int = 0
    finished: bool = False
    history: History = field(default_factory=History)
    of_epoch: Sums = field(default_factory=Sums)
    of_row: Sums = field(default_factory=Sums)
    best: dict[str, object] = field(default_factory=dict)
    saved: int | None = None

    def __post_init__(self) -> None:
        settings = self.settings
        self.device = next(self.network.parameters()).device
        self.per_epoch = -(-len(cut(self.rows, settings.batch_size)) // settings.accumulate)
        self.total = settings.iterations or self.per_epoch * (settings.epochs or 0)
        rates = (settings.learning_rate, settings.head_learning_rate or settings.learning_rate)
        groups = zip(self.network.groups(), rates, strict=True)
        self.optimiser = torch.optim.SGD(
            [{"params": group, "lr": rate, "initial": rate} for group, rate in groups],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.compute == "float16")
        balanced = settings.class_weights == "balanced"
        classes = len(self.network.classes)
        self.weights = class_weights(self.labels[self.rows], classes).to(self.device) if balanced else None
        self.path = self.folder / files.FILE
        self.saved_at = time.monotonic()

    def steps(self, train: PixelSet) -> Iterator[list[PixelBatch]]:
        """The batches of each step that is left of this epoch."""
        order = self.rows[np.random.default_rng((self.settings.seed, self.epoch)).permutation(len(self.rows))]
        draw = Draw(self.settings.seed, self.epoch)
        batches = iter(train.batches(order, self.settings.batch_size, draw, self.batch))
        self.network.train()
        try:
            while self.iteration < self.total and (step := list(islice(batches, self.settings.accumulate))):
                yield step
        finally:
            if isinstance(batches, Generator):
                batches.close()  # now, and not when it is collected: processes and files may hang on it

    def step(self, batches: list[PixelBatch]) -> None:
        """One step of the optimiser, on the mean loss of all answers in these batches."""
        share = factor(self.settings.schedule, self.iteration, self.per_epoch, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial"] * share
        self.optimiser.zero_grad(set_to_none=True)
        expected, found = sum(len(batch) for batch in batches), 0
        for batch in batches:
            found += self._backward(batch, expected)
        if found:
            if found != expected:  # faces that are missing, or several of a sample
                for parameter in self.network.parameters():
                    if parameter.grad is not None:
                        parameter.grad *= expected / found
            self.scaler.step(self.optimiser)
            self.scaler.update()
        self.batch += len(batches)
        self.iteration += 1
        if self.iteration % self.every.log == 0:
            row = StepRow(self.iteration, self.epoch + 1, *self.of_row.means(), *self._rates())
            self.history.steps.append(row)
            self.of_row = Sums()

    def _backward(self, batch: PixelBatch, expected: int) -> int:
        """Add a batch's gradients; how many answers it has."""
        labels, counts = self.network.targets(batch)
        answers = int(counts.sum())
        if not answers:
            return 0
        labels, counts, shares = labels.to(self.device), counts.to(self.device), self._shares(batch)
        with self._autocast():
            said = self.network.learns(batch, batch.labels.to(self.device))
        logits, losses = _counted(said, labels, counts, self.weights, shares)
        loss = losses.sum()
        self.scaler.scale(loss / expected).backward()
        value = float(loss.detach())
        self._number(value)
        right = int((logits.detach().argmax(-1) == labels[counts]).sum())
        for sums in (self.of_epoch, self.of_row):
            sums.add(value, right, answers)
        return answers

    def end_epoch(self, val: PixelSet | None) -> None:
        """Judge, keep the best weights, and write a checkpoint."""
        loss, accuracy = self._judge(val) if val is not None else (None, None)
        self.epoch, self.batch = self.epoch + 1, 0
        row = EpochRow(self.epoch, self.iteration, *self.of_epoch.means(), *self._rates(), loss, accuracy)
        self.history.epochs.append(row)
        self.of_epoch = Sums()
        self.finished = self.iteration >= self.total or self.epoch == self.settings.epochs
        if self.settings.patience is not None and loss is not None:
            if not self.best or loss < self.best["loss"]:  # pyright: ignore[reportOperatorIssue]
                self.best = {"loss": loss, "epoch": self.epoch, "network": _copied(self.network)}
                self.history.best_epoch = self.epoch
            elif self.epoch - (self.history.best_epoch or 0) >= self.settings.patience:
                self.history.stopped_early = not self.finished
                self.finished = True
        if self.finished and self.best:
            self.network.load_state_dict(self.best["network"])  # pyright: ignore[reportArgumentType]
            self.best = {}
        self.save()

    def _judge(self, val: PixelSet) -> tuple[float, float]:
        """Mean loss and accuracy of plain logits over the samples of a class."""
        sums = Sums()
        self.network.eval()
        order = np.flatnonzero(val.labels >= 0)
        with torch.inference_mode():
            for batch in val.batches(order, self.settings.batch_size, None):
                labels, counts = (one.to(self.device) for one in self.network.targets(batch))
                with self._autocast():
                    logits = self.network(batch)[counts]
                shares = self._shares(batch)
                wanted = labels[counts] if shares is None else shares[counts]  # torch takes either
                loss = float(cross_entropy(logits, wanted, reduction="sum"))
                sums.add(loss, int((logits.argmax(-1) == labels[counts]).sum()), len(logits))
        if not sums.answers:
            raise DataError("no sample of the validation split has an answer: give it samples with faces")
        self._number(sums.loss)
        return sums.means()

    def resume(self) -> None:
        """Go on from the checkpoint, or seed the random generators."""
        found = files.load(self.path, self._identity())
        if found is None:
            torch.default_generator.manual_seed(self.settings.seed)
            if self.device.type == "cuda":
                torch.cuda.manual_seed_all(self.settings.seed)
            return
        load_strictly(self.network, found.network, self.path)
        self.optimiser.load_state_dict(found.optimiser)
        self.scaler.load_state_dict(found.scaler)
        torch.set_rng_state(found.random["cpu"])
        if self.device.type == "cuda" and "cuda" in found.random:
            torch.cuda.set_rng_state(found.random["cuda"], self.device)
        self.epoch, self.batch = found.epoch, found.batch
        self.iteration, self.finished = found.iteration, found.finished
        self.history, self.best = History.of_plain(found.history), found.best
        self.of_epoch, self.of_row = (Sums(loss, int(right), int(n)) for loss, right, n in found.sums)
        self.saved = self.iteration

    def save(self) -> None:
        """Write a checkpoint, unless a weight is no number: the one before is good then."""
        if not all(bool(torch.isfinite(one).all()) for one in self.network.state_dict().values()):
            raise self._diverged("a weight is no number")
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        made = Checkpoint(
            of=self._identity(),
            epoch=self.epoch,
            batch=self.batch,
            iteration=self.iteration,
            finished=self.finished,
            network=self.network.state_dict(),
            optimiser=self.optimiser.state_dict(),
            scaler=self.scaler.state_dict(),
            random=random,
            history=self.history.plain(),
            sums=[[sums.loss, sums.right, sums.answers] for sums in (self.of_epoch, self.of_row)],
            best=self.best,
        )
        files.save(self.path, made)
        self.saved, self.saved_at = self.iteration, time.monotonic()

    def due(self) -> bool:
        """Whether a checkpoint is to be written within the epoch."""
        steps = self.every.iterations
        by_steps = steps is not None and self.iteration % steps == 0
        return by_steps or time.monotonic() - self.saved_at >= self.every.seconds

    def running(self) -> dict[str, str]:
        """Loss and accuracy of the running epoch, for the bar."""
        loss, accuracy = self.of_epoch.means()
        return {"loss": f"{loss:.4f}", "accuracy": f"{accuracy:.3f}"}

    def _identity(self) -> dict[str, object]:
        """What a checkpoint must agree in."""
        return files.identity(self.settings, self.network.classes, self.about)

    def _shares(self, batch: PixelBatch) -> torch.Tensor | None:
        shares = self.network.shares(batch)
        return None if shares is None else shares.to(self.device)

    def _rates(self) -> tuple[float, float]:
        backbone, above = self.optimiser.param_groups
        return backbone["lr"], above["lr"]

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.settings.compute == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.settings.compute))

    def _number(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")

    def _diverged(self, what: str) -> SettingError:
        place = f"in step {self.iteration + 1}, epoch {self.epoch + 1}"
        return SettingError(hint_for_nan(self.settings, f"{what} {place}", self.path, self.saved))


def _check(
    network: Network, train: PixelSet, val: PixelSet | None, settings: FinetuneSettings, device: str
) -> np.ndarray:
    """The positions that are trained on, once it is sure that they can be."""
    if settings.patience is not None and val is None:
        raise SettingError(f"patience is {settings.patience}, and there is no split val to judge by: leave it out")
    if settings.compute == "float16" and device == "cpu":
        raise SettingError("compute is float16, which is for CUDA devices: use bfloat16 or float32 on cpu")
    rows = np.flatnonzero(train.labels >= 0)
    if len(rows) < 2:
        raise DataError(f"{len(rows)} samples to train on: two are needed at least")
    require_all_classes(train.labels[rows], network.classes)
    return rows


def _counted(
    said: HeadOutput,
    labels: torch.Tensor,
    counts: torch.Tensor,
    weights: torch.Tensor | None,
    shares: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (r, K) of the answers that count, and what each adds to the loss (r,), times the weight of its class."""
    logits, labels = said.logits[counts], labels[counts]
    if said.penalty is None and said.answers is None and shares is None:
        return logits, cross_entropy(logits, labels, weights, reduction="none")
    loss, wanted = (CrossEntropy(), labels) if shares is None else (Soft(), shares[counts])
    given = ((name, getattr(said, name)) for name in ("penalty", "answers", "shares"))
    parts = {name: value[counts] for name, value in given if value is not None}
    losses = learnt(loss, HeadOutput(logits, said.attention[counts], **parts), wanted)
    return logits, losses if weights is None else losses * weights[labels]


def _copied(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
