"""Settings of the last layers in `margins`. Imports no torch, as settings are read by every command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from stages.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["softmax", "l_softmax", "a_softmax"]

MAX_MARGIN = 4
"""The authors' layers offer 1 to 4."""

DEFAULT_MARGIN = 4
"""SphereFace's, and that of the code of Gupta et al."""

REMEDY = "leave it out, or use l_softmax or a_softmax"


class LambdaSchedule(Settings):
    """How the plain logit's share falls: lambda = max(floor, base * (1 + gamma * iteration) ** -power).

    The defaults are SphereFace's: about 120 after 60 iterations, 8.3 after 1,000, and 5 from 1,659 on. L-Softmax was
    trained on MNIST with base 1000, gamma 0.000025, power 35 and floor 0; its authors advise a floor of 5 or 10 where
    the data are hard.

    Attributes:
        base: lambda at iteration 0; 0 with `floor` 0 is the pure margin. At or below `floor`, lambda is constant.
        gamma: how fast it falls, per iteration; 0 keeps it constant.
        power: the exponent; 0 keeps it constant.
        floor: the smallest lambda.
    """

    base: float = Field(default=1000.0, ge=0, allow_inf_nan=False)
    gamma: float = Field(default=0.12, ge=0, allow_inf_nan=False)
    power: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    floor: float = Field(default=5.0, ge=0, allow_inf_nan=False)

    def at(self, iteration: Tensor) -> Tensor:
        """Lambda, float64 of the shape of `iteration` (whole numbers, 0 or more)."""
        return (self.base * (1 + self.gamma * iteration.double()) ** -self.power).clamp_min(self.floor)


class MarginSettings(Settings):
    """Which last layer a network is trained with.

    Attributes:
        kind: `softmax` (linear, with bias), `l_softmax` (without) or `a_softmax` (without, weights of length 1).
        margin: m, how many times larger than other angles a sample's angle to its class counts; None: 4. 1 is softmax.
        schedule: of lambda; None: the defaults of `LambdaSchedule`.
    """

    kind: Kind = "softmax"
    margin: int | None = Field(default=None, ge=1, le=MAX_MARGIN)
    schedule: LambdaSchedule | None = None

    @model_validator(mode="after")
    def _softmax_has_neither(self) -> MarginSettings:
        if self.kind == "softmax" and self.margin is not None:
            raise ValueError(f"margin is {self.margin}, and softmax has none: {REMEDY}")
        if self.kind == "softmax" and self.schedule is not None:
            raise ValueError(f"schedule is ({self.schedule}), and softmax has none: {REMEDY}")
        return self
