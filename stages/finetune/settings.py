"""Settings of fine-tuning: which backbone, on which pixels, with which last layer and which schedule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from stages.device import DeviceName
from stages.errors import SettingError
from stages.extract.settings import FOLDER, FOLDER_PATTERN
from stages.finetune import presets
from stages.finetune.parts import AnswerName, AnswerSettings, AugmentSettings, Rate, ScheduleSettings
from stages.heads.margin_settings import MarginSettings
from stages.index.subsets import Subsets
from stages.settings import Settings

Unit = Literal["face", "faces", "photo"]
"""`face`: every face is a sample with its photo's label. `faces`: a photo's faces together, the loss on the mean of
their outputs. `photo`: the whole photo."""

RANDOM, WEIGHTS, PREVIOUS, NOTHING = "random", "weights", "finetune:", "none"
_START = re.compile(rf"{RANDOM}|{WEIGHTS}|{NOTHING}|{PREVIOUS}[A-Za-z0-9_][A-Za-z0-9_.-]*")


Option = bool | int | float | str
"""A value of a head's options."""


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
            network's then. `finetune:NAME` (or `folder:PATH`) is that fine-tune's network of whole photos. It is always
            there: no `none`.
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
        """See `FinetuneSettings.previous`."""
        return _after(self.start, PREVIOUS)

    @property
    def elsewhere(self) -> str | None:
        """See `FinetuneSettings.elsewhere`."""
        return _after(self.start, FOLDER)

    @property
    def before(self) -> str | None:
        """See `FinetuneSettings.before`."""
        return self.previous or self.elsewhere


class FinetuneSettings(Settings):
    """One fine-tune. What is not said comes from its preset, and what that does not say from the defaults.

    Attributes:
        preset: a name of `presets.PRESETS`.
        backbone: the network that is trained.
        start: `weights` (those of the catalogue), `random`, `finetune:NAME` (where another fine-tune ended), or
            `folder:PATH` (where one of another project ended: its folder, relative to this project). With a head that
            reads pixels and no features `none`: no network is below it, and `backbone` says which crops it sees.
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
        targets: what a sample's answer should be: `labels`, its class; or `shares`, of each class the annotators' share
            (`Sample.shares`), and of a sample without shares its class.
        leave_out: subsets of the manifest whose training samples do not train this one.
        compute: number format of the network's inside; weights, last layer and loss are float32.
        patience: epochs without a lower validation loss (split `val`) before it stops; the best weights are kept then.
            None: all epochs, and the last weights.
        max_faces: the largest faces kept of a photo, or of each frame of a clip.
        frames: with unit `faces`, how many frames of a clip are seen, others in each epoch; None: all that were looked
            at.
        answer: how photos are answered afterwards.
        answers: further ways to answer, by name: each is a member of its own, `NAME.ANSWER`, of the same weights.
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
    targets: Literal["labels", "shares"] = "labels"
    leave_out: Subsets = ()
    compute: Literal["float32", "bfloat16", "float16"] = "float32"
    patience: int | None = Field(default=None, ge=1)
    max_faces: int = Field(default=15, ge=1)
    frames: int | None = Field(default=None, ge=1)
    answer: AnswerSettings = AnswerSettings()
    answers: dict[AnswerName, AnswerSettings] = Field(default_factory=dict)
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
        for where, one in self._hows().items():
            if self.unit == "photo" and one.largest is not None:
                raise ValueError(f"{where}.largest is {one.largest}, and a photo has no faces here: leave it out")
        if self.targets == "shares" and self.classifier.kind != "softmax":
            raise ValueError(
                f"targets is shares and classifier.kind is {self.classifier.kind}: a margin is one of a single class; "
                "use softmax, or targets: labels"
            )
        if self.keep_last is not None and self.before is None:
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
        for where, one in self._hows().items():
            if one.largest is not None:
                raise ValueError(f"{where}.largest is {one.largest}, and a head answers for a photo: leave it out")
            if one.of != "probabilities" and not one.mirrored:
                raise ValueError(
                    f"{where}.of is {one.of}, and a head gives a photo one answer: there is nothing to average; use "
                    "probabilities"
                )
        return self

    @model_validator(mode="after")
    def _no_answer_twice(self) -> FinetuneSettings:
        found: dict[str, str] = {}
        for where, one in self._hows().items():
            if self.unit == "photo" and not one.mirrored:  # of one picture nothing is averaged
                one = one.model_copy(update={"of": "probabilities"})
            text = one.model_dump_json()
            if text in found:
                raise ValueError(f"{where} is the same as {found[text]}: leave it out")
            found[text] = where
        return self

    def _hows(self) -> dict[str, AnswerSettings]:
        """The setting -> how it answers."""
        return {"answer": self.answer} | {f"answers.{name}": one for name, one in self.answers.items()}

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
    def from_folders(self) -> tuple[tuple[str, str], ...]:
        """Backbone and folder of its networks that start from another project's fine-tune."""
        return tuple((one.backbone, one.elsewhere) for one in self.networks.values() if one.elsewhere is not None)

    @property
    def previous(self) -> str | None:
        """The fine-tune of this project that the backbone starts from, if any."""
        return _after(self.start, PREVIOUS)

    @property
    def elsewhere(self) -> str | None:
        """The folder of another project's fine-tune that the backbone starts from, relative to this one, if any."""
        return _after(self.start, FOLDER)

    @property
    def before(self) -> str | None:
        """The fine-tune that the backbone starts from, whosever it is: a name, or a folder."""
        return self.previous or self.elsewhere

    @property
    def hows(self) -> dict[str, AnswerSettings]:
        """Each way to answer, by its name in `answers`; `answer` is ''."""
        return {"": self.answer, **self.answers}

    def members(self, name: str) -> dict[str, str]:
        """What the members of this fine-tune are called without their seed, by their way to answer, see `hows`."""
        return {how: f"{name}.{how}" if how else name for how in self.hows}

    @property
    def networks(self) -> Mapping[str, FinetuneSettings | PhotosChoice]:
        """What is said of each network, by the name of its file: `backbone`, and `photos` where there is a second."""
        return {} if self.start == NOTHING else dict(self.sights)

    @property
    def sights(self) -> Mapping[str, FinetuneSettings | PhotosChoice]:
        """As `networks`, with `backbone` where no network is there: it says what is seen."""
        return {"backbone": self} | ({"photos": self.photos} if self.photos is not None else {})

    def after(self, others: Mapping[str, str]) -> FinetuneSettings:
        """These settings with another `start` of networks, by the names of their files."""
        starts = {part: {"start": start} for part, start in others.items()}
        update: dict[str, object] = dict(starts.get("backbone", {}))
        if self.photos is not None and "photos" in starts:
            update["photos"] = self.photos.model_copy(update=starts["photos"])
        return self.model_copy(update=update)

    def with_head(self, head: HeadChoice) -> FinetuneSettings:
        """These settings with another head, or with one; unit `face` becomes `faces`, and what is said of the last
        layer (`classifier`, `dropout`, `answer`, `answers`) goes with it.

        Raises:
            pydantic.ValidationError: they do not fit a head.
        """
        of_last = {"classifier", "dropout", "answer", "answers"} if self.head is None else set[str]()
        # what the preset says is among them, and would be filled in again
        said = self.model_dump(exclude_unset=True, exclude={"preset", *of_last}) | {"head": head}
        made = FinetuneSettings.model_validate(said | ({"unit": "faces"} if self.unit == "face" else {}))
        return made.model_copy(update={"preset": self.preset})


def _known_start(start: str, remedy: str) -> str:
    if start == PREVIOUS:  # a preset that goes on from another one
        raise ValueError(f"this preset goes on from another fine-tune: name it, as {remedy}")
    if start.startswith(FOLDER) and not re.fullmatch(FOLDER_PATTERN, start):
        raise ValueError(f"start is {start!r}: give the fine-tune's folder relative to the project, as folder:../a/b")
    if not start.startswith(FOLDER) and not _START.fullmatch(start):
        raise ValueError(f"start is {start!r}: use weights, random, finetune:NAME or folder:PATH")
    return start.rstrip("/")


def _after(start: str, prefix: str) -> str | None:
    return start.removeprefix(prefix) if start.startswith(prefix) else None


def _require_something_to_freeze(network: FinetuneSettings | PhotosChoice) -> None:
    if network.freeze and network.freeze_norm:
        raise ValueError("freeze_norm is given, and freeze is true, which keeps batch norm as well: leave it out")
    if network.freeze and network.start == RANDOM:
        raise ValueError("freeze with start random would keep weights that nothing trained")
    if network.freeze_norm and network.start == RANDOM:
        raise ValueError("freeze_norm with start random would keep batch norm statistics that nothing measured")
