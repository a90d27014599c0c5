"""Model folders: a trained head, or an ensemble of them, with all that prediction needs but the backbones' weights.

NAME/model.json           what it is: classes, head, settings of detection and extraction, backbones by hash
NAME/head.safetensors     the head's state, and the features' means and deviations
NAME/members/MEMBER/...   an ensemble's heads, each a model folder
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stages.detect.settings import DetectSettings
from stages.errors import DataError, MissingInputError, SettingError
from stages.extract.settings import ExtractSettings
from stages.heads import registry
from stages.train.rows import Scale
from stages.train.settings import HeadSettings

SCHEMA = 1
_PARTS = ("mean", "deviation")
_INPUT = "scale.inputs."
_SCALES = ("faces.mean", "faces.deviation", "global.mean", "global.deviation")


@dataclass(frozen=True)
class HeadModel:
    """A trained head and where its features come from.

    Attributes:
        name: `HEAD-sSEED`.
        classes: K names, the order of the logits.
        settings, seed: how it was trained.
        detect, extract: how its features are made; `extract` has only the roles it reads, each with the backbone
            that played it in training.
        weights: role -> `backbone`, the `sha256` of its weights file, and its `licence`.
        shapes: of what the head is given.
        scales: of faces and of global features (mean 0, deviation 1 where not standardized).
        input_scales: of inputs, those that are standardized.
        head: the module, in eval mode.
    """

    name: str
    classes: tuple[str, ...]
    settings: HeadSettings
    seed: int
    detect: DetectSettings
    extract: ExtractSettings
    weights: Mapping[str, Mapping[str, str]]
    shapes: registry.Shapes
    scales: tuple[Scale, Scale]
    head: nn.Module
    input_scales: Mapping[str, Scale] = field(default_factory=dict)


@dataclass(frozen=True)
class Ensemble:
    """Heads whose probabilities are averaged with weights that sum to 1 (a single head is an ensemble of one)."""

    name: str
    members: tuple[HeadModel, ...]
    weights: tuple[float, ...]


def build_head(settings: HeadSettings, shapes: registry.Shapes, classes: int) -> nn.Module:
    """An untrained head for features of these shapes."""
    return registry.build(settings.kind, shapes, classes, settings.dropout, settings.options)


def save_head(folder: Path, model: HeadModel) -> None:
    """Write a head's model folder, whole or not at all."""
    about = {
        "schema": SCHEMA,
        "kind": "head",
        "name": model.name,
        "classes": model.classes,
        "head": model.settings.model_dump(mode="json", by_alias=True),
        "seed": model.seed,
        "detect": model.detect.model_dump(mode="json"),
        "extract": model.extract.model_dump(mode="json"),
        "weights": {role: dict(entry) for role, entry in model.weights.items()},
        "dims": [model.shapes.faces, model.shapes.global_],
        "inputs": {name: list(shape) for name, shape in model.shapes.inputs.items()},
    }
    arrays = [value for scale in model.scales for value in scale]
    state = {f"scale.{name}": torch.from_numpy(a).contiguous() for name, a in zip(_SCALES, arrays, strict=True)}
    for name, scale in model.input_scales.items():
        both = zip(_PARTS, scale, strict=True)
        state |= {f"{_INPUT}{name}.{part}": torch.from_numpy(array).contiguous() for part, array in both}
    state |= {f"head.{name}": value.contiguous() for name, value in model.head.state_dict().items()}
    temporary = _fresh(folder)
    save_file(state, temporary / "head.safetensors")
    _finish(temporary, folder, about)


def save_ensemble(folder: Path, name: str, members: Mapping[str, Path], weights: Sequence[float]) -> None:
    """Write an ensemble's model folder with copies of its members' folders."""
    temporary = _fresh(folder)
    for member, source in members.items():
        shutil.copytree(source, temporary / "members" / member)
    about = {
        "schema": SCHEMA,
        "kind": "ensemble",
        "name": name,
        "members": dict(zip(members, weights, strict=True)),
    }
    _finish(temporary, folder, about)


def _fresh(folder: Path) -> Path:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _finish(temporary: Path, folder: Path, about: Mapping[str, Any]) -> None:
    (temporary / "model.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def load(folder: Path) -> Ensemble:
    """Read a model folder.

    Raises:
        MissingInputError: it is not one.
        DataError: a newer version wrote it, or a file in it is missing or damaged.
    """
    about = _about(folder)
    if about["kind"] == "head":
        head = _load_head(folder)
        return Ensemble(head.name, (head,), (1.0,))
    try:
        name = str(about["name"])
        weights = {str(member): float(weight) for member, weight in about["members"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unreadable(folder) from None
    if not weights or not math.isclose(sum(weights.values()), 1.0, abs_tol=1e-6) or min(weights.values()) < 0:
        raise _unreadable(folder)
    members = tuple(_load_head(folder / "members" / member) for member in weights)
    return Ensemble(name, members, tuple(weights.values()))


def _unreadable(folder: Path) -> DataError:
    return DataError(f"{folder / 'model.json'}: not readable as a model's description; train the model again")


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    if not path.is_file():
        raise MissingInputError(
            f"{folder} is not a model folder (no model.json); kuleshov train and fuse write them to artifacts/models/"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        schema, kind = int(about["schema"]), about["kind"]
    except (ValueError, KeyError, TypeError):
        raise _unreadable(folder) from None
    if schema > SCHEMA:
        raise DataError(f"{path}: schema {schema}, this version reads up to {SCHEMA}; upgrade kuleshov")
    if kind not in ("head", "ensemble"):
        raise _unreadable(folder)
    return about


def _load_head(folder: Path) -> HeadModel:
    about = _about(folder)
    path = folder / "head.safetensors"
    try:
        model = _described(about)
    except SettingError as error:
        raise DataError(f"{folder}: this version has not what the model needs ({error}); upgrade kuleshov") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise _unreadable(folder) from None
    try:
        state = load_file(path)
        arrays = [state.pop(f"scale.{name}").numpy() for name in _SCALES]
        widths = np.repeat([model.shapes.faces, model.shapes.global_], 2)
        wrong = [a.shape for a, width in zip(arrays, widths, strict=True) if a.shape != (width,)]
        if wrong:
            raise ValueError(f"a scale has the shape {wrong[0]}")
        of_inputs = {
            name: (state.pop(f"{_INPUT}{name}.mean").numpy(), state.pop(f"{_INPUT}{name}.deviation").numpy())
            for name in model.shapes.inputs
            if f"{_INPUT}{name}.mean" in state
        }
        model.head.load_state_dict({name.removeprefix("head."): value for name, value in state.items()})
    except FileNotFoundError:
        raise DataError(f"{path} is not there; train the model again") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path}: damaged, or of another model ({said}); train the model again") from None
    mean_f, deviation_f, mean_g, deviation_g = arrays
    model.head.eval()
    return replace(model, scales=((mean_f, deviation_f), (mean_g, deviation_g)), input_scales=of_inputs)


def _described(about: Mapping[str, Any]) -> HeadModel:
    """The model that model.json describes, with an untrained head and no scales."""
    settings = HeadSettings.model_validate(about["head"])
    extract = ExtractSettings.model_validate(about["extract"])
    classes = tuple(str(name) for name in about["classes"])
    given = {str(name): tuple(int(n) for n in shape) for name, shape in about.get("inputs", {}).items()}
    shapes = registry.Shapes(int(about["dims"][0]), int(about["dims"][1]), given)
    weights = {str(role): {str(k): str(v) for k, v in entry.items()} for role, entry in about["weights"].items()}
    if set(weights) != set(extract.backbones) or any({"backbone", "sha256"} - set(e) for e in weights.values()):
        raise ValueError("weights and backbones differ")
    none = np.empty(0, np.float32)
    return HeadModel(
        name=str(about["name"]),
        classes=classes,
        settings=settings,
        seed=int(about["seed"]),
        detect=DetectSettings.model_validate(about["detect"]),
        extract=extract,
        weights=weights,
        shapes=shapes,
        scales=((none, none), (none, none)),
        head=build_head(settings, shapes, len(classes)),
    )
