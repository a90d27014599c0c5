"""What the fine-tunes behind a head's features have seen, from the notes that travel with their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cache.keys import BlockSpec
from cache.store import Store
from stages.errors import DataError, MissingInputError
from stages.extract.notes import SEEN
from stages.extract.settings import ExtractSettings, unfolded
from stages.finetune.seen import Seen, mask, parse
from stages.index.manifest import Sample
from stages.predictions import require_held_out
from stages.train.settings import HeadSettings


@dataclass
class SeenBlocks:
    """What was seen by the weights of the blocks that heads read; each note is read once.

    Args:
        store: has the blocks.
        blocks: `ROLE/TAP` or `imported/NAME` -> its block.
        extract: which roles are of a fine-tune.
    """

    store: Store
    blocks: Mapping[str, BlockSpec]
    extract: ExtractSettings
    _notes: dict[str, Seen | None] = field(default_factory=dict)

    def of_block(self, name: str) -> Seen | None:
        """What the fine-tune of a block has seen; None: its weights are nobody's fine-tune.

        Raises:
            MissingInputError: its role is of a fine-tune, and the block has no note.
            DataError: the note is damaged, or tells of other weights.
        """
        if name not in self._notes:
            self._notes[name] = self._read(name)
        return self._notes[name]

    def _read(self, name: str) -> Seen | None:
        spec = self.blocks[name]
        tuned = self._fine_tune(name)
        content = self.store.note(spec, SEEN)
        if content is None:
            if tuned is None:
                return None
            raise MissingInputError(
                f"{spec.name}: what fine-tune {tuned} has seen is not known ({self.store.place(spec) / SEEN} is not "
                f"there); run kuleshov extract {unfolded(name.partition('/')[0])}"
            )
        again = f"delete it from the store and run kuleshov extract {unfolded(name.partition('/')[0])}"
        where = f"{SEEN} of block {self.store.place(spec).name}"
        seen = parse(content, where, again)
        if seen.weights not in spec.weights.values():
            raise DataError(f"{where} tells of weights of sha256 {seen.weights[:12]}, not of the block's; {again}")
        return seen

    def _fine_tune(self, name: str) -> str | None:
        """The fine-tune of a block's role; None: it has none, or features are imported."""
        role = self.extract.roles.get(name.partition("/")[0])
        return role.finetuned if role is not None else None

    def rows(self, head: HeadSettings, samples: Sequence[Sample]) -> NDArray[np.bool_]:
        """Which samples any fine-tune behind a head's features has seen, (n,) bool; see `of_block`."""
        return self._rows(head.blocks, samples)

    def _rows(self, names: Iterable[str], samples: Sequence[Sample]) -> NDArray[np.bool_]:
        found = np.zeros(len(samples), np.bool_)
        for name in names:
            if (seen := self.of_block(name)) is not None:
                found |= mask(seen, samples)
        return found

    def require_held_out(self, heads: Mapping[str, HeadSettings], samples: Sequence[Sample], split: str) -> None:
        """Refuse heads whose features have seen samples of the split that `evaluate` scores.

        Raises:
            DataError: names the head, the role, its fine-tune, how many samples and the first of them.
            MissingInputError, DataError: see `of_block`.
        """
        judged = [sample for sample in samples if sample.split == split]
        ids, splits = [s.sample_id for s in judged], [s.split for s in judged]
        for head, settings in heads.items():
            for name in settings.blocks:
                tuned = self._fine_tune(name)
                of = f"fine-tune {tuned} of" if tuned else "the fine-tune of"
                who = f"train.heads.{head}: {of} extract.backbones.{name.partition('/')[0]}"
                require_held_out(who, ids, splits, self._rows([name], judged), split)
