"""The loop: a block of members from their first step to their last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stages.errors import DataError
from stages.finetune.batch import cut
from stages.finetune.schedule import factor
from stages.finetune.settings import ScheduleSettings
from stages.heads.losses import learnt
from stages.train.population import optimisers
from stages.train.population.draws import Draws
from stages.train.population.forms import Form, form_of
from stages.train.population.generic import Answer, Generic
from stages.train.population.masks import BatchMasks
from stages.train.population.members import Loss, Member, Outcome, Plan
from stages.train.population.minibatch import Source, judged_at_once, take
from stages.train.population.net import Net
from stages.train.population.stack import Stack

JUDGED_AT_ONCE = 64
"""Samples of a minibatch in which members are judged."""

Result = tuple[Outcome, dict[str, Tensor]]


class Step(NamedTuple):
    """What a member sees in a step.

    Attributes:
        rows: int64 (B,), positions of samples.
        views: int64 (B,), the view that each is seen in; None: there is one.
        frames: int64 (B, T), which of their frames, see `Level`; None: the head reads none.
    """

    rows: np.ndarray
    views: np.ndarray | None
    frames: np.ndarray | None


class Block:
    """Members that are trained at once.

    Every round, each of them takes a step on its own next minibatch. Those whose minibatches are of one size are
    computed together, which are nearly always all: only the last minibatch of an epoch may be smaller.

    Args:
        members: at least one, all with heads of one shape.
        source, labels, plan: see `engine.train_population`.
    """

    def __init__(self, members: Sequence[Member], source: Source, labels: np.ndarray, plan: Plan) -> None:
        self._source, self._plan, self._labels = source, plan, torch.from_numpy(labels).to(plan.device)
        self._head, self._draws = members[0].head, Draws()
        form = None if plan.generic or plan.alone else form_of(self._head)
        self._form: Form | Generic = Generic(self._head, plan.alone) if form is None else form
        self._stack = Stack([member.head for member in members], plan.device)
        self._optimiser = optimisers.make(self._stack, plan)
        self._courses = [_Course(member, self._draws, source, plan.batch_size) for member in members]
        self._all = list(self._courses)
        self._sums = self._zeros(len(members))  # of losses in this epoch: read at its end, so that a GPU need not wait
        self._labels_used = _labels_used(members, labels) if plan.loss is None else np.empty(0, np.int64)
        self._step = 0

    def run(self) -> list[Result]:
        """Train to the end: for each member what became of it, and the parameters and buffers of its head."""
        decays = self._decays()
        while self._courses:
            steps = [course.next() for course in self._courses]
            for group in _groups([len(step.rows) for step in steps]):
                self._compute([steps[i] for i in group], group)
            rates = np.array([course.rate for course in self._courses], np.float32)
            self._optimiser.step(self._stack, rates, decays)
            self._step += 1
            ended = [i for i, course in enumerate(self._courses) if course.ended()]
            if ended:
                self._judge(ended)
                if any(course.over for course in self._courses):
                    self._let_go()
                    decays = self._decays()
        return [course.result() for course in self._all]

    def _compute(self, steps: Sequence[Step], group: list[int]) -> None:
        """The losses of some members on their minibatches are added up; their gradients go to the stack."""
        rows = np.stack([step.rows for step in steps])
        seen = Step(rows, *(_stacked([step[part] for step in steps]) for part in (1, 2)))
        seeds = [self._courses[i].member.seed for i in group]
        masks = BatchMasks(self._draws, seeds, self._step, self._source.counts[rows], self._plan.device)
        weights = self._weights(group, rows)
        if len(group) == len(self._courses):
            self._sums.add_(self._pass(self._stack, seen, masks, weights), alpha=rows.shape[1])
            return
        which = torch.tensor(group, device=self._plan.device)
        stack = self._stack.picked(which)
        self._sums.index_add_(0, which, self._pass(stack, seen, masks, weights), alpha=rows.shape[1])
        self._stack.take_back(stack, which)

    def _weights(self, group: Sequence[int], rows: np.ndarray) -> Tensor | None:
        """(P, B) what the losses of some members' samples (P, B) are multiplied by; None: all by 1."""
        given = [self._courses[i].member.weights for i in group]
        if all(one is None for one in given):
            return None
        found = [np.ones(len(mine)) if one is None else one[mine] for one, mine in zip(given, rows, strict=True)]
        return torch.from_numpy(np.stack(found).astype(np.float32)).to(self._plan.device)

    def _pass(self, stack: Stack, seen: Step, masks: BatchMasks | None, weights: Tensor | None = None) -> Tensor:
        """(P,) float64 mean loss of minibatches (P, B); in training gradients into the stack.

        Args:
            seen: with P in front of each shape.
        """
        targets = self._labels[torch.from_numpy(seen.rows).to(self._labels.device)]
        if isinstance(self._form, Generic):
            said, leaves = self._form.answer(stack, self._source.padded(*seen), masks)
            self._check_labels(said.logits)
            with torch.set_grad_enabled(masks is not None):
                loss, asked = partial(_losses, self._plan.loss), said if masks is not None else Answer(said.logits)
                losses = _mean(learnt(loss, asked, targets), weights)
            if masks is not None:
                gradients = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
                for place, gradient in zip(stack.gradients.values(), gradients, strict=True):
                    place.zero_() if gradient is None else place.copy_(gradient)
            return losses.detach().double()
        with torch.no_grad():
            net = Net(stack, self._head, take(self._source, seen.rows, seen.views), masks.rows if masks else None)
            out = self._form(self._head, net)
            self._check_labels(out.data)
            if masks is None:
                return _mean(_losses(self._plan.loss, out.data, targets), None).double()
            losses, gradient = _loss_and_gradient(self._plan.loss, out.data, targets, weights)
            net.backward(out, gradient)
        return losses.double()

    def _check_labels(self, logits: Tensor) -> None:
        """Refuse labels that are no class, once it is seen how many classes there are: before the first step.

        Raises:
            DataError: a label is out of range.
        """
        used, self._labels_used = self._labels_used, np.empty(0, np.int64)
        wrong = used[(used < 0) | (used >= logits.shape[2])]
        if len(wrong):
            raise DataError(
                f"population: a sample has the label {wrong[0]} of {logits.shape[2]} classes; leave it out of the rows"
            )

    def _judge(self, ended: Sequence[int]) -> None:
        """Judge the members at the end of an epoch, where they are judged; keep the parameters of the best."""
        trained = self._sums.tolist()
        self._sums[ended] = 0
        asked = [i for i in ended if len(self._courses[i].judged)]
        sums = np.zeros(len(self._courses))
        for group in _groups([len(self._courses[i].judged) for i in asked]):
            mine = [asked[k] for k in group]
            stack = self._stack.picked(torch.tensor(mine, device=self._plan.device))
            losses = self._zeros(len(mine))
            rows = np.stack([self._courses[i].judged for i in mine])
            size = judged_at_once(self._source, len(mine), JUDGED_AT_ONCE)
            for start in range(0, rows.shape[1], size):
                part = rows[:, start : start + size]
                losses.add_(self._pass(stack, Step(part, None, None), None), alpha=part.shape[1])
            sums[mine] = losses.cpu().numpy()
        for i in ended:
            course = self._courses[i]
            loss = sums[i] / len(course.judged) if len(course.judged) else None
            if course.end_epoch(trained[i] / len(course.member.rows), loss):
                course.state = self._stack.state(i)

    def _let_go(self) -> None:
        """Go on without the members that are through."""
        stay = [i for i, course in enumerate(self._courses) if not course.over]
        self._courses = [self._courses[i] for i in stay]
        if stay:
            which = torch.tensor(stay, device=self._plan.device)
            self._optimiser.pick(self._stack, which)
            self._stack = self._stack.picked(which)
            self._sums = self._sums.index_select(0, which)

    def _decays(self) -> np.ndarray:
        return np.array([course.member.weight_decay for course in self._courses], np.float32)

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=self._plan.device)


class _Course:
    """A member's way through its epochs.

    Attributes:
        judged: positions of the samples that the member is judged by; maybe none.
        rate: learning rate of the step that `next` gave the samples of.
        state: parameters and buffers to end with.
        over: whether the member is through.
    """

    def __init__(self, member: Member, draws: Draws, source: Source, size: int) -> None:
        self.member, self.rate, self.over = member, member.learning_rate, False
        self.judged = np.empty(0, np.int64) if member.judged is None else member.judged
        self.state: dict[str, Tensor] = {}
        self._draws, self._views, self._size = draws, source.views, size
        self._frames = source.levels.get("frame")
        self._epoch, self._iteration = 0, 0
        self._losses: list[float] = []
        self._found: list[float] = []
        self._best = 0
        self._coming: Iterator[Step] = iter(())
        self._per_epoch = len(cut(member.rows, size))
        self._factors = _factors(member.schedule.model_dump_json(), self._per_epoch, self._per_epoch * member.epochs)

    def next(self) -> Step:
        """The next step."""
        step = next(self._coming, None)
        if step is None:
            self._coming = self._shuffled()
            step = next(self._coming)
        self.rate = self.member.learning_rate * self._factors[self._iteration]
        return step

    def ended(self) -> bool:
        """Note a step. Whether it was the last one of an epoch."""
        self._iteration += 1
        return self._iteration % self._per_epoch == 0

    def end_epoch(self, loss: float, judged: float | None) -> bool:
        """Note an epoch's loss and that on what the member is judged by. Whether to keep its parameters."""
        self._losses.append(loss)
        epoch = self._epoch
        self._epoch += 1
        self.over = self._epoch == self.member.epochs or not np.isfinite(self._losses[-1])
        if judged is None:
            self._best = epoch
            return self.over
        self._found.append(float(judged))
        losses = np.nan_to_num(self._found, nan=np.inf)
        better = epoch == 0 or losses[-1] < losses[self._best]
        self._best = epoch if better else self._best
        self.over |= self.member.patience is not None and epoch - self._best >= self.member.patience
        return better

    def result(self) -> Result:
        """What became of the member."""
        return Outcome(self._losses, self._found, self._best), self.state

    def _shuffled(self) -> Iterator[Step]:
        """An epoch's steps."""
        seed, epoch = self.member.seed, self._epoch
        order = self._draws.order(seed, epoch, self.member.rows, self.member.chances)
        rows = cut(order, self._size)
        ends = np.cumsum([len(part) for part in rows])[:-1]
        views, frames = repeat(None), repeat(None)
        if self._views > 1:
            views = np.split(self._draws.views(seed, epoch, len(order), self._views), ends)
        level = self._frames
        if level is not None and level.train is not None:
            frames = np.split(self._draws.frames(seed, epoch, level.counts[order], level.train), ends)
        elif level is not None:
            frames = map(level.every, rows)
        return map(Step, rows, views, frames)


@lru_cache(maxsize=256)
def _factors(settings: str, per_epoch: int, total: int) -> np.ndarray:
    """What the learning rate is multiplied by at each iteration; `settings`: a schedule's, as JSON."""
    schedule = ScheduleSettings.model_validate_json(settings)
    return np.array([factor(schedule, iteration, per_epoch, total) for iteration in range(total)])


def _stacked(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Arrays of all members; None where they have none."""
    given = [part for part in parts if part is not None]
    return np.stack(given) if given else None


def _labels_used(members: Sequence[Member], labels: np.ndarray) -> np.ndarray:
    """Every label that a member is trained on or judged by, once."""
    parts = [rows for member in members for rows in (member.rows, member.judged) if rows is not None]
    return np.unique(labels[np.concatenate(parts)])


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Positions of equal sizes, in groups."""
    found: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        found.setdefault(size, []).append(i)
    return list(found.values())


def _losses(loss: Loss | None, logits: Tensor, targets: Tensor) -> Tensor:
    """Of logits (..., K) and their targets."""
    if loss is not None:
        return loss(logits, targets)
    flat = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def _mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """(P,) mean over the samples of losses (P, B), each times its weight."""
    return (losses if weights is None else losses * weights).mean(1)


def _loss_and_gradient(
    loss: Loss | None, logits: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(P,) mean losses, and the gradient of their sum with respect to the logits."""
    if loss is not None:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            losses = _mean(_losses(loss, leaf, targets), weights)
            [gradient] = torch.autograd.grad(losses.sum(), [leaf])
        return losses.detach(), gradient
    odds, at = torch.log_softmax(logits, 2), targets[..., None]
    losses = _mean(odds.gather(2, at).squeeze(2).neg_(), weights)
    gradient = odds.exp_().scatter_add_(2, at, odds.new_full((1, 1, 1), -1.0).expand(at.shape))
    if weights is not None:
        gradient.mul_(weights[..., None])
    return losses, gradient.div_(targets.shape[1])
