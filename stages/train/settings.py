"""Settings of training: which heads, on which cached features, with which schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from stages.device import DeviceName
from stages.errors import SettingError
from stages.finetune.settings import PREVIOUS, Option, ScheduleSettings
from stages.heads.loss_settings import LossSettings
from stages.index.subsets import Subsets
from stages.settings import Settings

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LIKE_A_SEED = re.compile(r".*-s\d+")

BlockName = Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
"""`ROLE/TAP`, a role of `extract.backbones` and one of its taps; or `imported/NAME`, a name of `extract.imported`."""

_BLOCK_SETTINGS = ("faces", "global", "inputs")
_PARTS = ("options", "loss", "frames", "schedule")
"""Settings of which a grid may try a part, `options.NAME`."""


class FrameSettings(Settings):
    """Which frames of a clip a head of frames sees, of those with a face.

    Attributes:
        train: so many, drawn for each epoch, in their order; None: all.
        answer: so many, evenly spread; None: all.
    """

    train: int | None = Field(default=16, ge=1)
    answer: int | None = Field(default=None, ge=1)


class HeadSettings(Settings):
    """One head and how it is trained. What is None follows the head's paper.

    Attributes:
        kind: `FILE:VARIANT` of `stages/heads/`.
        faces: blocks whose rows are joined to a face's vector; none for a head that does not read faces.
        global_: blocks whose rows are joined to the photo's vector (`global` in params.yaml); none for a head that does
            not read photos.
        inputs: what else the head reads, by the names that its file gives them: blocks whose rows are joined.
        options: of the head's file, see docs/heads.md.
        frames: of a head that reads frames.
        epochs: passes over the training split.
        batch_size: samples.
        optimiser: `sgd`, or `adam`.
        learning_rate: of the optimiser at the start.
        step: epochs after which the learning rate is multiplied by `gamma`.
        gamma: see `step`.
        schedule: another way for the learning rate to fall, in the place of `step` and `gamma`.
        momentum: of SGD.
        weight_decay: times the weights is added to their gradients.
        loss: see `LossSettings`.
        class_weights: `balanced`: a sample counts n / (K n_c), n_c the training samples of its class.
        leave_out: subsets of the manifest whose training samples do not train this head, and have no part in the means
            and deviations of its features.
        sampling: `balanced`: an epoch draws as many samples as there are, each class as often as the others.
        patience: training ends after so many epochs without a lower loss on split val, and the weights are those of the
            epoch with the lowest; None: it does not.
        dropout: after every linear layer but the last.
        max_faces: the largest faces kept of a photo; the paper's code keeps 15.
        standardize: subtract the training split's mean and divide by its standard deviation, per feature. Cached
            features of different networks have different scales, and no layer below them can learn it away.
        views: `plain`, or `drawn`: training takes one of the cached views (`extract.views`) of each sample and epoch.
            What is predicted is always the plain one.
        answer: `plain`; or `mirrored`: the mean of the probabilities of the plain and the mirrored view
            (`extract.views.flip`).
        grid: setting -> values that are tried, such as `learning_rate: [0.001, 0.01]`; `options.NAME` and `loss.NAME`
            are settings too. Every combination is a candidate, and `TrainSettings.choose` says which of them the head
            is. All are trained on samples of one label, or all on those of several, and all have the same `start` and
            `leave_out`.
        start: `finetune:NAME`: the head's weights at the start are those of that fine-tune, which trained it end to end
            (`kuleshov finetune NAME --head`); None: weights of its own, drawn from the seed.
    """

    kind: str
    faces: tuple[BlockName, ...] = ()
    global_: tuple[BlockName, ...] = Field(default=(), alias="global")
    inputs: dict[str, tuple[BlockName, ...]] = Field(default_factory=dict)
    options: dict[str, Option] = Field(default_factory=dict)
    frames: FrameSettings = FrameSettings()
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=2)
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=0.001, gt=0, allow_inf_nan=False)
    step: int | None = Field(default=None, ge=1)
    gamma: float = Field(default=0.1, gt=0, le=1)
    schedule: ScheduleSettings | None = None
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    max_faces: int = Field(default=15, ge=1)
    standardize: bool = True
    loss: LossSettings = LossSettings()
    class_weights: Literal["none", "balanced"] = "none"
    leave_out: Subsets = ()
    sampling: Literal["natural", "balanced"] = "natural"
    patience: int | None = Field(default=None, ge=1)
    views: Literal["plain", "drawn"] = "plain"
    answer: Literal["plain", "mirrored"] = "plain"
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    start: str | None = Field(default=None, pattern=rf"^{PREVIOUS}{_FILE_NAME.pattern}$")

    @model_validator(mode="after")
    def _features_as_they_are(self) -> HeadSettings:
        if self.start is not None and self.standardize:
            raise ValueError(
                f"start is {self.start} and standardize is true: a head that was trained end to end saw features as "
                "they are; use standardize: false"
            )
        return self

    @model_validator(mode="after")
    def _one_label_where_classes_are_counted(self) -> HeadSettings:
        if self.loss.several and (self.class_weights != "none" or self.sampling != "natural"):
            name = "class_weights" if self.class_weights != "none" else "sampling"
            raise ValueError(f"{name} is balanced and loss.kind is {self.loss.kind}: it is for samples of one label")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> HeadSettings:
        falls = "step" if self.step is not None else "gamma" if self.gamma != 0.1 else ""
        if self.schedule is not None and falls:
            raise ValueError(f"{falls} is {getattr(self, falls):g}, and schedule is given too: leave one of them out")
        if self.optimiser == "adam" and self.momentum != 0.9:
            raise ValueError(f"momentum is {self.momentum:g} and optimiser is adam, which has none: leave it out")
        return self

    @model_validator(mode="after")
    def _values_of_the_grid(self) -> HeadSettings:
        for key, values in self.grid.items():
            if not values:
                raise ValueError(f"grid.{key} is empty: give values, or leave it out")
            if len({repr(value) for value in values}) < len(values):
                raise ValueError(f"grid.{key} has a value twice: {', '.join(map(str, values))}")
            for value in values:
                if self.candidate({key: value}).loss.several != self.loss.several:
                    raise ValueError(
                        f"grid.{key}: {value} is of samples of {_MANY[not self.loss.several]}, and loss.kind "
                        f"{self.loss.kind} of samples of {_MANY[self.loss.several]}: their scores cannot be compared; "
                        "make two heads"
                    )
        return self

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of all blocks that the head reads, each once; with a grid, all that any candidate reads."""
        tried = {key: self.grid[key] for key in _BLOCK_SETTINGS if key in self.grid}
        if tried:
            each = (dict(zip(tried, values, strict=True)) for values in product(*tried.values()))
            return tuple(dict.fromkeys(name for values in each for name in self.candidate(values).blocks))
        others = (name for names in self.inputs.values() for name in names)
        return tuple(dict.fromkeys((*self.faces, *self.global_, *others)))

    @property
    def patient(self) -> bool:
        """Whether it, or a candidate of its grid, stops by split val."""
        return any(value is not None for value in self.grid.get("patience", (self.patience,)))

    @property
    def trained_on_shares(self) -> bool:
        """Whether it, or a candidate of its grid, is trained on annotators' shares."""
        tried = (value.get("kind") for value in self.grid.get("loss", ()) if isinstance(value, Mapping))
        return "soft" in {self.loss.kind, *self.grid.get("loss.kind", ()), *tried}

    @property
    def candidates(self) -> int:
        """How many there are: 1 without a grid."""
        return math.prod(len(values) for values in self.grid.values())

    def chosen(self) -> Iterator[dict[str, Any]]:
        """What each candidate sets, in the order of the grid: the last setting changes fastest."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def candidate(self, values: Mapping[str, Any]) -> HeadSettings:
        """The settings with those of a candidate, and no grid.

        Raises:
            ValueError: there is no such setting, or the value is wrong.
        """
        changed: dict[str, Any] = self.model_dump(mode="python", by_alias=True, exclude={"grid"}, exclude_unset=True)
        for key, value in values.items():
            name, _, inner = key.partition(".")
            if name in ("grid", "start", "leave_out") or (inner and name not in _PARTS):
                raise ValueError(f"grid.{key}: there is no such setting to try")
            changed[name] = {**(changed.get(name) or {}), inner: value} if inner else value
        try:
            return HeadSettings.model_validate(changed)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "extra_forbidden":
                raise ValueError(f"grid.{'.'.join(map(str, first['loc']))}: there is no such setting to try") from None
            said = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"grid.{'.'.join(map(str, first['loc'])) or next(iter(values))}: {said}") from None

    @property
    def previous(self) -> str | None:
        """The fine-tune that the head starts from, if any."""
        return None if self.start is None else self.start.removeprefix(PREVIOUS)


class ChooseSettings(Settings):
    """How the candidates of a head's grid are compared: never by the split that `evaluate` scores.

    Attributes:
        by: `val`: on that split; `folds`: each is trained without one of the folds of the training split and judged on
            it, fold after fold. The best one is then trained on the whole training split.
        folds: how many.
        score: `accuracy`, `balanced_accuracy` or `macro_f1`, of which more is better; `loss`, of which less is; `auto`:
            accuracy, and for samples of several labels the mean average precision. The mean over seeds and folds
            counts; of equals the one with the lower loss, then the first. The loss is plain cross entropy of the
            probabilities, whatever the head was trained with, so that a grid over `loss` can be compared; of samples of
            several labels, whose scores are no probabilities for `kl`, it is the loss that the head was trained with.
            A grid over both of these has no loss to compare: `loss` is refused there, and of equals the first is taken.
            Where candidates read different blocks, they are judged by the samples that have all of them.
    """

    by: Literal["val", "folds"] = "val"
    folds: int = Field(default=5, ge=2)
    score: Literal["auto", "accuracy", "balanced_accuracy", "macro_f1", "loss"] = "auto"


class TrainSettings(Settings):
    """The heads of a project.

    Attributes:
        seeds: each head is trained once per seed.
        choose: among the candidates of heads with a `grid`.
        folds: also train each head so many times without a fold of the training split, and answer that fold: answers
            to training samples by heads that have not seen them; None: do not.
        overlap: of a training sample that shares its group or its content with one of the split that `evaluate` scores,
            or with one that candidates are judged by: `refuse` stops; `leave_out` does not train on it.
        device: that heads are trained on.
        heads: name -> head. A name is a file name: letters, digits, `_`, `-`, `.`; not `NAME-sNUMBER`, which is how
            one trained member is called.
    """

    seeds: tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...] = Field(default=(0, 1, 2), min_length=1)
    choose: ChooseSettings = ChooseSettings()
    folds: int | None = Field(default=None, ge=2)
    overlap: Literal["refuse", "leave_out"] = "refuse"
    device: DeviceName = "auto"
    heads: dict[str, HeadSettings] = Field(min_length=1)

    @field_validator("heads")
    @classmethod
    def _file_names(cls, heads: dict[str, HeadSettings]) -> dict[str, HeadSettings]:
        for name in heads:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"head name {name!r}: use letters, digits, _ - . (it names files)")
            if _LIKE_A_SEED.fullmatch(name):
                raise ValueError(f"head name {name!r}: it ends as the name of one seed's member does; choose another")
        return heads

    def judging(self, judged: str) -> set[str]:
        """Splits that heads are judged by, here or by `evaluate`, but not the one that they are trained on."""
        val = {"val"} if any(_uses_val(head, self.choose) for head in self.heads.values()) else set[str]()
        return ({judged} | val) - {"train"}

    def require_apart(self, judged: str) -> None:
        """Refuse to choose by the split that is reported.

        Raises:
            SettingError: names the head.
        """
        for name, head in self.heads.items():
            if judged == "val" and _uses_val(head, self.choose):
                what = "patience" if head.patient else "grid"
                raise SettingError(
                    f"train.heads.{name}.{what} chooses by split val, and evaluate.split is val: what is chosen on a "
                    "split flatters there; set evaluate.split to test"
                    + ("" if what == "patience" else ", or train.choose.by to folds")
                )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed occurs twice")
        return seeds


def _uses_val(head: HeadSettings, choose: ChooseSettings) -> bool:
    return head.patient or (head.candidates > 1 and choose.by == "val")


_MANY = {False: "one label", True: "several labels"}
