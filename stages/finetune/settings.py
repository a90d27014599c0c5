"""Settings of fine-tuning: which backbone, on which pixels, with which last layer and which schedule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from stages.device import DeviceName
from stages.errors import SettingError
from stages.finetune import presets
from stages.heads.margin_settings import MarginSettings
from stages.settings import Settings

Unit = Literal["face", "faces", "photo"]
"""`face`: every face is a sample with its photo's label. `faces`: a photo's faces together, the loss on the mean of
their outputs. `photo`: the whole photo."""

RANDOM, WEIGHTS, PREVIOUS, NOTHING = "random", "weights", "finetune:", "none"
_START = re.compile(rf"{RANDOM}|{WEIGHTS}|{NOTHING}|{PREVIOUS}[A-Za-z0-9_][A-Za-z0-9_.-]*")
_OF_KIND = {
    "constant": (),
    "steps": ("unit", "every", "at", "gamma"),
    "restarts": ("first", "multiply", "floor"),
}

Area = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Option = bool | int | float | str
"""A value of a head's options."""


class AugmentSettings(Settings):
    """What a random view of a picture is. The default shows each picture as extraction sees it.

    Attributes:
        flip: mirrored, with probability 1/2.
        crop: `none` (the middle); `random` (a random place of the input's size in a larger picture); `resized` (a
            random part, resized to the input's size).
        short_side: px of a whole photo's shortest side before a random crop; None: the backbone's `resize_to`.
        area: the smallest and largest share of the picture that `resized` shows.
        jitter: brightness, contrast and saturation are changed by up to this share, as torchvision's ColorJitter.
    """

    flip: bool = False
    crop: Literal["none", "random", "resized"] = "none"
    short_side: int | None = Field(default=None, ge=1)
    area: tuple[Area, Area] = (0.08, 1.0)
    jitter: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _fits_the_crop(self) -> AugmentSettings:
        if self.area[0] > self.area[1]:
            raise ValueError(f"area is {list(self.area)}: give the smaller share first")
        if self.crop != "resized" and self.area != (0.08, 1.0):
            raise ValueError(f"area is {list(self.area)} and crop is {self.crop}: only crop resized has an area")
        if self.crop != "random" and self.short_side is not None:
            raise ValueError(f"short_side is {self.short_side} and crop is {self.crop}: only crop random has one")
        return self


class ScheduleSettings(Settings):
    """How the learning rate falls. See `schedule.factor` for the formulas.

    Attributes:
        kind: `constant`; `steps`: times `gamma` now and then; `restarts`: SGDR, cosines that start again.
        unit: `steps`: what `every` and `at` count.
        every: `steps`: after how many units each time; or `at`.
        at: `steps`: after how many units; a number below 1 is a share of the whole training. Ascending.
        gamma: `steps`: the factor.
        first: `restarts`: length of the first period, in epochs.
        multiply: `restarts`: how many times longer each period is than the one before.
        floor: `restarts`: where the cosine ends, as a share of the learning rate it starts from (two groups of
            parameters may have two rates).
    """

    kind: Literal["steps", "restarts", "constant"] = "constant"
    unit: Literal["epoch", "iteration"] = "epoch"
    every: int | None = Field(default=None, ge=1)
    at: tuple[Rate, ...] = ()
    gamma: float = Field(default=0.1, gt=0, lt=1)
    first: int = Field(default=10, ge=1)
    multiply: int = Field(default=2, ge=1)
    floor: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("at")
    @classmethod
    def _numbers_of_units(cls, at: tuple[float, ...]) -> tuple[float, ...]:
        for value in at:
            if value >= 1 and value != int(value):
                raise ValueError(f"at has {value}: use whole numbers of units, or shares of the training below 1")
        if any(later <= earlier for earlier, later in pairwise(at)):
            raise ValueError(f"at is {list(at)}: give ascending numbers")
        if at and at[0] < 1 <= at[-1]:
            raise ValueError(f"at is {list(at)}: give numbers of units, or shares below 1, not both")
        return at

    @model_validator(mode="after")
    def _fits_the_kind(self) -> ScheduleSettings:
        for name, field in ScheduleSettings.model_fields.items():
            value = getattr(self, name)
            if name != "kind" and name not in _OF_KIND[self.kind] and value != field.default:
                raise ValueError(f"{name} is {value} and kind is {self.kind}, which has none: leave it out")
        if self.kind == "steps" and (self.every is None) == (not self.at):
            raise ValueError("kind steps needs either every or at")
        return self


class AnswerSettings(Settings):
    """How a photo is answered by the trained network. See `stages.finetune.answers`.

    Attributes:
        of: what is averaged over its faces: `probabilities` (Tan et al. 2017) or `logits` (Gupta et al. 2018).
        largest: how many of its faces count, the largest; None: all that are kept.
        mirrored: its mirror image counts as well.
    """

    of: Literal["probabilities", "logits"] = "probabilities"
    largest: int | None = Field(default=None, ge=1)
    mirrored: bool = False


class HeadChoice(Settings):
    """The head that is trained end to end with the networks below it.

    Attributes:
        kind: `FILE:VARIANT` of `stages/heads/`.
        dropout: the head's own.
        options: of the head's file, see docs/heads.md.
    """

    kind: str = Field(min_length=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    options: dict[str, Option] = Field(default_factory=dict)


class PhotosChoice(Settings):
    """The network of whole photos that is trained beside one of faces, below the same head.

    Attributes:
        backbone, start, tap, freeze, freeze_norm, augment: as those of `FinetuneSettings`, which are the faces'
            network's then. `finetune:NAME` is that fine-tune's network of whole photos. It is always there: no `none`.
    """

    backbone: str = Field(min_length=1)
    start: str = WEIGHTS
    tap: str | None = None
    freeze: bool = False
    freeze_norm: bool = False
    augment: AugmentSettings = AugmentSettings()

    @field_validator("start")
    @classmethod
    def _known_start(cls, start: str) -> str:
        if start == NOTHING:
            raise ValueError("photos.start is none: leave photos out where there is no network of photos")
        return _known_start(start, "photos: {start: finetune:NAME}")

    @model_validator(mode="after")
    def _something_to_freeze(self) -> PhotosChoice:
        _require_something_to_freeze(self)
        return self

    @property
    def previous(self) -> str | None:
        """The fine-tune that this network starts from, if any."""
        return _previous(self.start)


class FinetuneSettings(Settings):
    """One fine-tune. What is not said comes from its preset, and what that does not say from the defaults.

    Attributes:
        preset: a name of `presets.PRESETS`.
        backbone: the network that is trained.
        start: `weights` (those of the catalogue), `random`, or `finetune:NAME` (where another fine-tune ended). With a
            head that reads pixels and no features `none`: no network is below it, and `backbone` says which crops it
            sees.
        keep_last: whether the other fine-tune's last layer, or its head, is kept; None: where classes and kind of layer
            (of a head also the widths) are the same.
        unit: what a sample is. A head sees a photo's faces together: `faces`, or `photo` where `backbone` sees photos.
        tap: of the backbone, what the last layer reads; None: the first of one dimension. A map (C, H, W) is averaged
            over its places.
        head: the head that is trained in place of a last layer; None: a last layer is.
        photos: with a head and a backbone of faces, the network of whole photos beside it; None: faces alone.
        classifier: the last layer.
        dropout: probability before the last layer.
        epochs, iterations: how long; exactly one of them. An iteration is one step of the optimiser.
        batch_size: samples that are computed at once.
        accumulate: batches whose gradients make one step.
        learning_rate: of SGD at the start, of the networks.
        head_learning_rate: of the last layer, or of the head; None: `learning_rate`.
        momentum, weight_decay: of SGD.
        schedule: of the learning rates.
        augment: random views.
        freeze: the backbone is not trained: it keeps all its parameters and statistics.
        freeze_norm: the backbone's batch norm layers keep theirs.
        class_weights: `balanced`: a sample of class c counts n / (K n_c) times.
        compute: number format of the network's inside; weights, last layer and loss are float32.
        patience: epochs without a lower validation loss (split `val`) before it stops; the best weights are kept then.
            None: all epochs, and the last weights.
        max_faces: the largest faces kept of a photo, or of each frame of a clip.
        frames: with unit `faces`, how many frames of a clip are seen, others in each epoch; None: all that were looked
            at.
        answer: how photos are answered afterwards.
        folds: a fine-tune for each of so many folds of the training split, see `stages.finetune.folds`; None: one, of
            all of it.
        seed: of everything random.
        device: where it is computed.
    """

    preset: str | None = None
    backbone: str = Field(min_length=1)
    start: str = WEIGHTS
    keep_last: bool | None = None
    unit: Unit
    tap: str | None = None
    head: HeadChoice | None = None
    photos: PhotosChoice | None = None
    classifier: MarginSettings = MarginSettings()
    dropout: float = Field(default=0.0, ge=0, lt=1)
    epochs: int | None = Field(default=None, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    batch_size: int = Field(ge=2)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: Rate
    head_learning_rate: Rate | None = None
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    schedule: ScheduleSettings = ScheduleSettings()
    augment: AugmentSettings = AugmentSettings()
    freeze: bool = False
    freeze_norm: bool = False
    class_weights: Literal["none", "balanced"] = "none"
    compute: Literal["float32", "bfloat16", "float16"] = "float32"
    patience: int | None = Field(default=None, ge=1)
    max_faces: int = Field(default=15, ge=1)
    frames: int | None = Field(default=None, ge=1)
    answer: AnswerSettings = AnswerSettings()
    folds: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    device: DeviceName = "auto"

    @model_validator(mode="before")
    @classmethod
    def _from_the_preset(cls, said: object) -> object:
        if not isinstance(said, dict):
            return said
        try:
            filled = presets.fill(said)
        except SettingError as error:
            raise ValueError(str(error)) from None
        if "unit" not in filled:
            raise ValueError("unit is missing: face (each face), faces (a photo's together) or photo (whole photos)")
        return filled

    @field_validator("start")
    @classmethod
    def _known_start(cls, start: str) -> str:
        return _known_start(start, "start: finetune:NAME")

    @model_validator(mode="after")
    def _no_contradiction(self) -> FinetuneSettings:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give either epochs or iterations")
        _require_something_to_freeze(self)
        if self.unit != "faces" and self.frames is not None:
            raise ValueError(f"frames is {self.frames} and unit is {self.unit}: only unit faces sees several at once")
        if self.unit == "photo" and self.answer.largest is not None:
            raise ValueError(f"answer.largest is {self.answer.largest}, and a photo has no faces here: leave it out")
        if self.keep_last is not None and self.previous is None:
            raise ValueError(f"keep_last is given and start is {self.start}, which has no last layer: leave it out")
        return self

    @model_validator(mode="after")
    def _nothing_beside_a_head(self) -> FinetuneSettings:
        """A setting that would do nothing, or stand for the head's own, is refused."""
        if self.photos is not None and (self.head is None or self.unit == "photo"):
            why = "there is no head that would join them" if self.head is None else "unit is photo"
            raise ValueError(f"photos is given, and {why}: it is the second network, beside one of faces below a head")
        if self.start == NOTHING:
            self._require_nothing_below()
        if self.head is None:
            return self
        if self.unit == "face":
            raise ValueError("unit is face, and a head sees a photo's faces together: use unit faces")
        if self.classifier != MarginSettings():
            raise ValueError(f"classifier is ({self.classifier}), and a head is given, which is the last: use softmax")
        if self.dropout:
            raise ValueError(f"dropout is {self.dropout}, and a head has its own: use head.dropout, and 0 here")
        if self.answer.largest is not None:
            raise ValueError(f"answer.largest is {self.answer.largest}, and a head answers for a photo: leave it out")
        if self.answer.of != "probabilities" and not self.answer.mirrored:
            raise ValueError(
                f"answer.of is {self.answer.of}, and a head gives a photo one answer: there is nothing to average; use "
                "probabilities"
            )
        return self

    def _require_nothing_below(self) -> None:
        if self.head is None:
            raise ValueError("start is none, and there is no head: only one that reads pixels has no network below it")
        if self.photos is not None:
            raise ValueError("photos is given, and start is none: there is no network that it could be beside")
        for name in ("tap", "freeze", "freeze_norm"):
            if getattr(self, name):
                raise ValueError(f"{name} is given, and start is none: there is no network, leave it out")

    @property
    def from_catalogue(self) -> tuple[str, ...]:
        """The backbones that start from the catalogue's weights."""
        return tuple(one.backbone for one in self.networks.values() if one.start == WEIGHTS)

    @property
    def from_finetunes(self) -> tuple[str, ...]:
        """The fine-tunes that its networks start from."""
        return tuple(one.previous for one in self.networks.values() if one.previous is not None)

    @property
    def previous(self) -> str | None:
        """The fine-tune that the backbone starts from, if any."""
        return _previous(self.start)

    @property
    def networks(self) -> Mapping[str, FinetuneSettings | PhotosChoice]:
        """What is said of each network, by the name of its file: `backbone`, and `photos` where there is a second."""
        return {} if self.start == NOTHING else dict(self.sights)

    @property
    def sights(self) -> Mapping[str, FinetuneSettings | PhotosChoice]:
        """As `networks`, with `backbone` where no network is there: it says what is seen."""
        return {"backbone": self} | ({"photos": self.photos} if self.photos is not None else {})

    def after(self, finetunes: Mapping[str, str]) -> FinetuneSettings:
        """These settings with networks, by the names of their files, that start from other fine-tunes."""
        starts = {part: {"start": f"{PREVIOUS}{name}"} for part, name in finetunes.items()}
        update: dict[str, object] = dict(starts.get("backbone", {}))
        if self.photos is not None and "photos" in starts:
            update["photos"] = self.photos.model_copy(update=starts["photos"])
        return self.model_copy(update=update)

    def with_head(self, head: HeadChoice) -> FinetuneSettings:
        """These settings with another head, or with one; unit `face` becomes `faces`, and what is said of the last
        layer (`classifier`, `dropout`, `answer`) goes with it.

        Raises:
            pydantic.ValidationError: they do not fit a head.
        """
        of_last = {"classifier", "dropout", "answer"} if self.head is None else set[str]()
        # what the preset says is among them, and would be filled in again
        said = self.model_dump(exclude_unset=True, exclude={"preset", *of_last}) | {"head": head}
        made = FinetuneSettings.model_validate(said | ({"unit": "faces"} if self.unit == "face" else {}))
        return made.model_copy(update={"preset": self.preset})


def _known_start(start: str, remedy: str) -> str:
    if start == PREVIOUS:  # a preset that goes on from another one
        raise ValueError(f"this preset goes on from another fine-tune: name it, as {remedy}")
    if not _START.fullmatch(start):
        raise ValueError(f"start is {start!r}: use weights, random or finetune:NAME")
    return start


def _previous(start: str) -> str | None:
    return start.removeprefix(PREVIOUS) if start.startswith(PREVIOUS) else None


def _require_something_to_freeze(network: FinetuneSettings | PhotosChoice) -> None:
    if network.freeze and network.freeze_norm:
        raise ValueError("freeze_norm is given, and freeze is true, which keeps batch norm as well: leave it out")
    if network.freeze and network.start == RANDOM:
        raise ValueError("freeze with start random would keep weights that nothing trained")
    if network.freeze_norm and network.start == RANDOM:
        raise ValueError("freeze_norm with start random would keep batch norm statistics that nothing measured")
