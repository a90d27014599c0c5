"""What a fine-tune has seen travels with its features: each block of a fine-tuned role has that file as a note.

Here it is bytes that are carried along; `stages/finetune/seen.py` writes and reads what they say.
"""

from __future__ import annotations

import json
from pathlib import Path

from cache.store import Store
from stages.errors import DataError, MissingInputError
from stages.extract.plan import RolePlan
from stages.extract.settings import finetune_command

SEEN = "seen.json"
"""Name of the note."""


def seen_file(weights: Path) -> Path:
    """The file that says what the fine-tune of a weights file has seen."""
    return weights.with_suffix(".seen.json")


def carry_seen(store: Store, plan: RolePlan) -> None:
    """Give each block of a fine-tuned role that has no note of what its fine-tune has seen one, before any row.

    Of other roles nothing is done, and of blocks that have the note nothing is read.

    Raises:
        MissingInputError: the fine-tune's file is not there.
        DataError: the file tells of other weights than those that compute.
        cache.errors.StorePlaceError: the store may not be written.
    """
    lacking = [spec for spec in plan.blocks.values() if plan.file and store.note(spec, SEEN) is None]
    if plan.file is None or not lacking:
        return
    path = seen_file(plan.file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingInputError(
            f"{path} is not there ({error.strerror}): what fine-tune {plan.finetuned} has seen is not known; put it "
            f"beside the weights, or run {finetune_command(plan.finetuned or '')}"
        ) from None
    told = _weights_of(content)
    for spec in lacking:
        if told not in spec.weights.values():
            raise DataError(
                f"{path} tells of other weights than {plan.file.name}: put back the file that belongs to it, or run "
                f"{finetune_command(plan.finetuned or '')}"
            )
        store.writer(spec, notes={SEEN: content})


def _weights_of(content: bytes) -> object:
    """The SHA-256 of the weights that the file tells of; None where it says none."""
    try:
        return json.loads(content)["weights"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
