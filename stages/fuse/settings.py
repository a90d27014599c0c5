"""Settings of fusion: which members' probabilities are averaged, and with which weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from stages.settings import Settings


class EnsembleSettings(Settings):
    """One ensemble.

    Attributes:
        members: names of heads and fine-tunes (all their seeds) or of single members (`HEAD-sSEED`), each member once.
        weights: one per member, as given, not fitted; None: all the same. A head's weight is shared by its seeds.
    """

    members: tuple[str, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None

    @model_validator(mode="after")
    def _as_many(self) -> EnsembleSettings:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members: give one each")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError("the weights sum to 0")
        return self


class FuseSettings(Settings):
    """The ensembles of a project: name -> ensemble. A name is a file name: letters, digits, `_`, `-`, `.`."""

    ensembles: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")], EnsembleSettings] = Field(
        default_factory=dict
    )
