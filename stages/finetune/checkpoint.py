"""Checkpoints, from which a killed training goes on, and the files in which a finished one is handed on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.backbones import about as about_file
from stages.errors import SettingError, WeightsError
from stages.finetune.settings import FinetuneSettings
from stages.whole import whole

FILE = "checkpoint.pt"
SCHEMA = 1
_SHOWN = 4

LATER = {"freeze": False, "photos.freeze": False, "targets": "labels", "leave_out": []}
"""Settings that files of earlier trainings do not have, and what these trainings did."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a training goes on with. Only tensors, numbers, strings, lists and dicts.

    Attributes:
        of: the training it is of: name of a setting or of data -> value or hash.
        epoch, batch, iteration: whole epochs done, batches of the next one done, steps of the optimiser done.
        finished: whether nothing is left to train.
        network: state dict.
        optimiser, scaler: their state dicts.
        random: `cpu`, and `cuda` where it is used: states of torch's generators. What numpy draws follows from seed and
            epoch, so it has no state.
        history: `History.plain`.
        sums: of the running epoch, and since the last row of steps: loss, right answers, answers.
        best: with early stopping `loss`, `epoch` and `network`, else empty.
    """

    of: dict[str, object]
    epoch: int
    batch: int
    iteration: int
    finished: bool
    network: dict[str, Tensor]
    optimiser: dict[str, object]
    scaler: dict[str, object]
    random: dict[str, Tensor]
    history: dict[str, object]
    sums: list[list[float]]
    best: dict[str, object]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; whatever happens meanwhile, the file is the earlier one or this one, whole."""
    values = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint)}
    with whole(path, durable=True) as temporary:
        torch.save({"schema": SCHEMA} | values, temporary)


def load(path: Path, of: Mapping[str, object]) -> Checkpoint | None:
    """The checkpoint of this training; None: there is none.

    Args:
        of: see `Checkpoint.of`.

    Raises:
        WeightsError: the file is cut short, damaged, or something else.
        SettingError: it is of a training with other settings or data; says what differs.
    """
    if not path.exists():
        return None
    remedy = "remove it to train from the start"
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{path} is no whole checkpoint of a fine-tune ({reason}): {remedy}") from error
    names = {field.name for field in fields(Checkpoint)}
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA or values.keys() != names:
        raise WeightsError(f"{path} is no checkpoint of a fine-tune, or one of another version: {remedy}")
    checkpoint = Checkpoint(**values)
    differs = differences(with_later(checkpoint.of, of), of)
    if differs:
        raise SettingError(f"{path} is of another training: {differs}; set that back, or {remedy}")
    return checkpoint


def identity(settings: FinetuneSettings, classes: Sequence[str], about: Mapping[str, str]) -> dict[str, object]:
    """What two trainings must agree in to be one: name of a setting or of data -> value or hash.

    The device is not in it: a training may move. Nor is how photos are answered afterwards,
    nor how many folds there are: a fold is known by its samples.

    Args:
        about: hashes of what the settings do not say, such as `data_hash` of the samples.
    """
    return said(settings) | dict(about) | {"classes": list(classes)}


def with_later(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, object]:
    """What a file says of a training, with the settings that came later and that `now` has."""
    return {name: value for name, value in LATER.items() if name in now} | dict(before)


def said(settings: FinetuneSettings) -> dict[str, object]:
    """The settings on which a training depends, as `flat` gives them."""
    return flat(settings.model_dump(mode="json", exclude={"device", "answer", "answers", "folds"}))


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as `schedule.every` -> value."""
    out: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def data_hash(ids: Iterable[str], labels: np.ndarray) -> str:
    """SHA-256 of samples and their classes in their order, 64 hex digits."""
    lines = (f"{sample}\0{label}\n" for sample, label in zip(ids, labels.tolist(), strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def save_parts(folder: Path, parts: Mapping[str, nn.Module], about: Mapping[str, object]) -> dict[str, Path]:
    """Write the state of each part as `PART.safetensors`, its keys as they are; equal weights give equal bytes.

    Args:
        folder: is made where it is not there.
        parts: `Network.parts()`.
        about: what `stages.backbones.about.read_about` gives back; JSON-able.

    Returns:
        The files, by part.
    """
    # one key, because the order of several is not kept
    metadata = {about_file.KEY: json.dumps(dict(about), sort_keys=True, ensure_ascii=False)}
    written = {}
    for name, part in parts.items():
        state = {key: value.detach().cpu().contiguous().clone() for key, value in part.state_dict().items()}
        written[name] = folder / f"{name}.safetensors"
        with whole(written[name], durable=True) as temporary:
            save_file(state, temporary, metadata)
    return written


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """`NAME was A and is B` of what differs; empty where nothing does."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    shown = [f"{name} was {_short(before.get(name))} and is {_short(now.get(name))}" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:16]}..."
