"""Parts of a fine-tune's settings: random views, how the learning rate falls, how photos are answered."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from stages.settings import Settings

_OF_KIND = {
    "constant": (),
    "steps": ("unit", "every", "at", "gamma"),
    "restarts": ("first", "multiply", "floor"),
}

Area = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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


def _no_fold_and_no_seed(name: str) -> str:
    if re.fullmatch(r"fold\d+|.*-s\d+", name):
        raise ValueError(f"{name!r} ends as the name of a fold or of one seed's member does; choose another")
    return name


AnswerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"), AfterValidator(_no_fold_and_no_seed)]
"""It is a part of a file's name, after a dot."""
