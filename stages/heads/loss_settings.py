"""Settings of the loss a head is trained with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.settings import Settings


class LossSettings(Settings):
    """What is made small. See `stages.heads.losses` for the formulas.

    Attributes:
        kind: `cross_entropy`; `focal` (Lin et al. 2017): cross entropy times (1 - p)^`gamma`; `kl`: the
            Kullback-Leibler divergence of the softmax from labels that sum to one; `multi_label`: a binary cross
            entropy for each class; `soft`: cross entropy of the annotators' shares of each class. `kl` and
            `multi_label` take samples of several labels.
        gamma: `focal`: how much less a sample counts that is answered well.
        smoothing: `cross_entropy`: the share of the label that is spread evenly over all classes.
    """

    kind: Literal["cross_entropy", "focal", "kl", "multi_label", "soft"] = "cross_entropy"
    gamma: float | None = Field(default=None, ge=0, le=10)
    smoothing: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits_the_kind(self) -> LossSettings:
        if self.gamma is not None and self.kind != "focal":
            raise ValueError(f"gamma is {self.gamma:g} and kind is {self.kind}, which has none: leave it out")
        if self.smoothing and self.kind != "cross_entropy":
            raise ValueError(f"smoothing is {self.smoothing:g} and kind is {self.kind}, which has none: leave it out")
        return self

    @property
    def several(self) -> bool:
        """Whether samples of several labels are trained on; else those of one label are."""
        return self.kind in ("kl", "multi_label")
