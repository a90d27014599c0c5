"""Heads that start where a fine-tune ended, which trained them end to end with the networks below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.backbones.about import read_about
from stages.backbones.states import load_strictly, read_state
from stages.errors import MissingInputError, SettingError
from stages.finetune import seen as seen_files
from stages.finetune.seen import Seen
from stages.finetune.start import HEAD, describe_head, differs
from stages.heads.registry import Shapes
from stages.index.manifest import Sample
from stages.predictions import require_held_out
from stages.train.settings import HeadSettings


@dataclass(frozen=True)
class HeadStart:
    """A head as a fine-tune left it.

    Attributes:
        path: of its weights.
        state: its state dict.
        seen: what it was trained on.
    """

    path: Path
    state: Mapping[str, Tensor]
    seen: Seen

    def fill(self, head: nn.Module) -> None:
        """Give an untrained head these weights.

        Raises:
            WeightsError: the head is another one.
        """
        load_strictly(head, dict(self.state), self.path)

    def has_seen(self, samples: Sequence[Sample]) -> NDArray[np.bool_]:
        """Which of the samples it has seen, (n,) bool."""
        return seen_files.mask(self.seen, samples)


def read_start(
    name: str, settings: HeadSettings, finetunes: Path | None, shapes: Shapes, classes: tuple[str, ...]
) -> HeadStart | None:
    """What a head starts from; None: from weights of its own.

    Args:
        name: of the head, for messages.
        finetunes: has a folder for each fine-tune; None: there are none.
        shapes: of what the head is given.
        classes: names, in the order of the logits.

    Raises:
        MissingInputError: there is no such fine-tune, or it trained no head, or what it has seen is not known.
        SettingError: its head is of another kind, or for vectors of other widths, or other classes.
        WeightsError, DataError: a file of it is damaged.
    """
    if settings.previous is None:
        return None
    where = f"train.heads.{name}.start is {settings.start}"
    path = finetunes / settings.previous / HEAD if finetunes is not None else None
    if path is None or not path.is_file():
        raise MissingInputError(
            f"{where}, and {path or 'that fine-tune'} is not there; run kuleshov finetune {settings.previous} with a "
            "head"
        )
    now = describe_head(settings.kind, settings.options, shapes) | {"classes": list(classes)}
    if why := differs(now, read_about(path), now):
        raise SettingError(
            f"{where}, and the head does not fit: {why}; give it what that fine-tune was trained with, or leave start "
            "out"
        )
    return HeadStart(path, read_state(path), seen_files.read(path))


def require_starts_held_out(starts: Mapping[str, HeadStart | None], samples: Sequence[Sample], split: str) -> None:
    """Refuse heads that start from a fine-tune which has seen samples of the split that `evaluate` scores.

    Args:
        starts: by the heads' names.

    Raises:
        DataError: names the head, the file, how many samples and the first of them.
    """
    judged = [sample for sample in samples if sample.split == split]
    ids, splits = [s.sample_id for s in judged], [s.split for s in judged]
    for name, start in starts.items():
        if start is not None:
            require_held_out(f"train.heads.{name}.start: {start.path}", ids, splits, start.has_seen(judged), split)
