"""Settings of extraction: which backbones, which of their outputs, in which precision they are stored."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from stages.align.persons import Region
from stages.device import DeviceName
from stages.engines import ComputeName, EngineName
from stages.settings import Settings

IMPORTED = "imported"
"""How heads call features that nobody here computed: `imported/NAME`. No role may be called so."""

_FOLD = re.compile(r"\.fold\d+$")

ROLE_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"

FOLDER = "folder:"
FOLDER_PATTERN = rf"{FOLDER}[^/\\\s][^\\\r\n]*"
"""Another project's fine-tune by its folder, relative to this project: an absolute path would be of one machine, and is
told wherever features go."""

Role = Annotated[str, Field(pattern=f"^{ROLE_PATTERN}$")]
"""A role names files and DVC stages."""

KeyStart = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""The first 16 digits of a block's key. In YAML in quotes: it may look like a number."""


def _rows(value: object) -> object:
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError("give a number of rows from 1 on, or auto")
    return value


BatchSize = Annotated[int | Literal["auto"], BeforeValidator(_rows)]
"""Rows a forward pass."""


def fold_name(name: str, fold: int) -> str:
    """What a fold of a fine-tune, or of a role, is called."""
    return f"{name}.fold{fold}"


def unfolded(name: str) -> str:
    """The fine-tune, or role, that a name is of: without what `fold_name` adds."""
    return _FOLD.sub("", name)


def finetune_command(name: str) -> str:
    """The command that makes a fine-tune, or one of its folds."""
    where = " in the project that it is of" if name.startswith(FOLDER) else ""
    own = unfolded(name).rpartition("/")[2] if where else unfolded(name)
    return f"kuleshov finetune {own}" + (" --folds K" if unfolded(name) != name else "") + where


class BackboneSettings(Settings):
    """One role in a project: a name that heads refer to, and the backbone that plays it.

    Attributes:
        backbone: the backbone's name (`kuleshov weights ls`); None: the same as the role's.
        taps: its outputs to cache.
        region: of a backbone of whole photos: `person`, it sees the box of each person, or `context`, the photo with
            that person masked, and has a row for each; None: whole photos. A backbone of faces has none.
        stand_in: a backbone with the same taps that is used where the weights of `backbone` are not on this machine;
            it is said when that happens. None: missing weights are an error.
        finetuned: name of a fine-tune (`kuleshov finetune NAME`) whose weights it has, or `folder:PATH`, the folder of
            another project's, relative to this project; None: the catalogue's.
        folds: of a fine-tune that was made in so many folds: the role stands for one of each fold, `ROLE.fold0` and so
            on, by which heads name them.
        compression: of the rows in the store: `none`, `gzip` or `lzf`. Smaller files that cannot be mapped, so that
            training reads them slowly. Not part of the key: rows that are there stay as they are.
    """

    backbone: str | None = None
    taps: tuple[str, ...] = Field(min_length=1)
    region: Region | None = None
    stand_in: str | None = None
    finetuned: str | None = Field(default=None, pattern=f"^({ROLE_PATTERN}|{FOLDER_PATTERN})$")
    folds: int | None = Field(default=None, ge=2)
    compression: Literal["none", "gzip", "lzf"] = "none"

    @field_validator("finetuned")
    @classmethod
    def _as_one_name(cls, finetuned: str | None) -> str | None:
        return None if finetuned is None else finetuned.rstrip("/")

    @model_validator(mode="after")
    def _no_stand_in_for_a_fine_tune(self) -> BackboneSettings:
        if self.finetuned is not None and self.stand_in is not None:
            raise ValueError(f"stand_in is {self.stand_in} and finetuned is {self.finetuned}: leave one of them out")
        if self.folds is not None and self.finetuned is None:
            raise ValueError(f"folds is {self.folds}, but only a fine-tune has folds: name it in finetuned")
        return self

    def of_folds(self, role: str) -> dict[str, BackboneSettings]:
        """The roles that this one stands for: itself, or one for each fold."""
        if self.folds is None:
            return {role: self}
        return {
            fold_name(role, fold): self.model_copy(
                update={
                    "backbone": self.backbone or role,
                    "finetuned": fold_name(self.finetuned or "", fold),
                    "folds": None,
                }
            )
            for fold in range(self.folds)
        }


class ViewSettings(Settings):
    """Other views of the pixels, cached beside the plain one, which training may draw from.

    Attributes:
        flip: the mirrored view.
        crops: how many random crops, of every face and of every photo.
        seed: of the crops.
        area: the smallest share of the picture's area that a crop shows; the largest is all of it.
    """

    flip: bool = False
    crops: int = Field(default=0, ge=0, le=100)
    seed: int = Field(default=0, ge=0)
    area: float = Field(default=0.7, gt=0, le=1)


class ExtractSettings(Settings):
    """How features are computed.

    Attributes:
        backbones: role -> backbone; none only in a model that reads nothing but imported features.
        dtype: of the stored rows. `float16` has a relative error of at most 2^-11 (0.05 %) and ends at 65,504,
            `bfloat16` one of at most 2^-8 (0.4 %) and the range of `float32`. A value beyond is refused, never stored
            as inf.
        batch_size: rows a forward pass; smaller batches are padded to it. Not part of the key. `auto`: a rule over
            engine and input, see `stages.extract.forward.batch_rows`. With torch on a CPU and fewer than 16, the last
            digits of some backbones depend on the number of threads.
        device: `auto`, `cpu` or `cuda`.
        engine: `auto`, `torch` or `openvino`, see `stages.engines.resolve`.
        compute: of the networks' layers: `float32`, `bfloat16` or, on a GPU, `float16`.
        compile: whether torch compiles the networks first (torch.compile): minutes at the start.
        views: cached beside the plain view of every face and photo.
        imported: name -> which block `imported/NAME` is, as `kuleshov cache import` says it.
    """

    backbones: dict[Role, BackboneSettings]
    dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    batch_size: BatchSize = "auto"
    device: DeviceName = "auto"
    engine: EngineName = "auto"
    compute: ComputeName = "float32"
    compile: bool = False
    views: ViewSettings = ViewSettings()
    imported: dict[Role, KeyStart] = Field(default_factory=dict)

    @field_validator("backbones")
    @classmethod
    def _no_role_is_imported(cls, backbones: dict[str, BackboneSettings]) -> dict[str, BackboneSettings]:
        if IMPORTED in backbones:
            raise ValueError(f"a role is called {IMPORTED!r}, which is kept for extract.imported; choose another name")
        return backbones

    @field_validator("imported", mode="before")
    @classmethod
    def _quoted(cls, imported: object) -> object:
        if not isinstance(imported, dict):
            return imported
        for name, key in imported.items():
            if not isinstance(name, str):
                raise ValueError(
                    f"a name was read as {name!r}, no text; put it in quotes, as kuleshov cache import prints it"
                )
            if isinstance(key, int | float):
                raise ValueError("a key was read as a number; put it in quotes, as kuleshov cache import prints it")
        return imported

    @field_validator("backbones")
    @classmethod
    def _each_role_once(cls, backbones: dict[str, BackboneSettings]) -> dict[str, BackboneSettings]:
        for role, backbone in backbones.items():
            twice = [fold for fold in backbone.of_folds(role) if fold != role and fold in backbones]
            if twice:
                raise ValueError(f"role {twice[0]!r} is there, and is a fold of {role!r} as well: rename one of them")
        return backbones

    @property
    def stages(self) -> dict[str, list[str]]:
        """Name in `backbones`, by name -> the roles that it stands for."""
        return {name: list(self.backbones[name].of_folds(name)) for name in sorted(self.backbones)}

    @property
    def roles(self) -> dict[str, BackboneSettings]:
        """Role -> backbone, with a role for each fold."""
        return {role: one for name, of in self.backbones.items() for role, one in of.of_folds(name).items()}

    @model_validator(mode="after")
    def _something(self) -> ExtractSettings:
        if not self.backbones and not self.imported:
            raise ValueError("backbones is empty; name at least one")
        return self
