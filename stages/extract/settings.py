"""Settings of extraction: which backbones, which of their outputs, in which precision they are stored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.device import DeviceName
from stages.settings import Settings

Role = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A role names files and DVC stages."""


class BackboneSettings(Settings):
    """One role in a project: a name that heads refer to, and the backbone that plays it.

    Attributes:
        backbone: the backbone's name (`kuleshov weights ls`); None: the same as the role's.
        taps: its outputs to cache.
        stand_in: a backbone with the same taps that is used where the weights of `backbone` are not on this machine;
            it is said when that happens. None: missing weights are an error.
    """

    backbone: str | None = None
    taps: tuple[str, ...] = Field(min_length=1)
    stand_in: str | None = None


class ExtractSettings(Settings):
    """How features are computed.

    Attributes:
        backbones: role -> backbone.
        dtype: of the stored rows. float16 has a relative error of at most 2^-11 (0.05 %) and ends at 65,504: a value
            beyond is refused, never stored as inf.
        batch_size: rows a forward pass; smaller batches are padded to it. Not part of the key.
        device: `auto`, `cpu` or `cuda`.
    """

    backbones: dict[Role, BackboneSettings] = Field(min_length=1)
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = Field(default=16, ge=1)
    device: DeviceName = "auto"
