"""What detect, align and extract have left to do: counted by item keys where detection has been, else expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cache import dtypes
from cache.keys import BlockSpec, item_keys, key_array, key_list
from cache.store import Store
from pipeline.crops import templates_read
from pipeline.project import Project
from stages.align.run import crops_block
from stages.detect.clips import NOT_DETECTED, TIMES_SPEC, read_clips
from stages.detect.corpus import SIZE_SPEC, Corpus
from stages.detect.detections import Detections
from stages.detect.run import boxes_spec, read
from stages.detect.settings import FaceSource
from stages.errors import MissingInputError
from stages.extract.items import keys_of, viewed
from stages.extract.plan import RolePlan
from stages.extract.settings import ViewSettings
from stages.index.manifest import Manifest, Sample

DETECT, ALIGN = "detect", "align"

ITEM_BYTES = 40
"""What an item takes in a shard beside its rows: key, offset and status."""


@dataclass(frozen=True)
class Amount:
    """Work of a stage, counted in what its time grows with: frames of detect, crops of align, a role's rows of a tap.

    Attributes:
        left: what the store lacks of `total`.
        total: what there is.
        size: bytes of what is left.
        whole: bytes of all of it.
    """

    left: float = 0.0
    total: float = 0.0
    size: float = 0.0
    whole: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.left + other.left, self.total + other.total, self.size + other.size, self.whole + other.whole
        )

    def expected(self, times: float) -> Amount:
        """So many times as much, of which the store has nothing."""
        return Amount(self.total * times, self.total * times, self.whole * times, self.whole * times)


@dataclass(frozen=True)
class Role:
    """A role's plan, and the blocks that it is the first to write."""

    plan: RolePlan
    blocks: list[BlockSpec]

    @property
    def stage(self) -> str:
        """As people call it."""
        return f"extract {self.plan.role}"


def distinct_roles(plans: Mapping[str, RolePlan]) -> list[Role]:
    """The roles, each block with the first that writes it: the others find it in the store."""
    seen: set[str] = set()
    roles: list[Role] = []
    for plan in plans.values():
        roles.append(Role(plan, [spec for spec in plan.blocks.values() if spec.key not in seen]))
        seen.update(spec.key for spec in plan.blocks.values())
    return roles


class Outlook:
    """What the store has, now, of the photos or the clips of a manifest, and what it lacks.

    Frames of clips that nobody looked into, and faces where nobody detected, are expected from those that were seen.

    Attributes:
        manifest: of photos alone, or of clips alone: their frames have other numbers of faces.
    """

    def __init__(self, project: Project, manifest: Manifest, roles: Sequence[Role]) -> None:
        self.manifest, self._roles, self._store = manifest, roles, project.store
        self._views, settings = project.params.extract.views, project.params.detect
        self._source: FaceSource = settings.faces
        self._templates = templates_read(project, [role.plan for role in roles])
        spec = boxes_spec(settings)
        self._boxes, self._sizes = self._store.open(spec), self._store.open(SIZE_SPEC)
        self._clips = read_clips(manifest, self._store, settings.clips)
        contents = (sample.content for sample in manifest if sample.content not in self._clips.failed)
        self._corpus = Corpus.of(contents, self._clips.times)
        self._stored = self._corpus.stored(self._boxes, self._sizes)
        self._unknown = [content for content, why in self._clips.failed.items() if why == NOT_DETECTED]
        known = [len(times) for times in self._clips.times.values()]
        self._frames_unknown = len(self._unknown) * float(np.mean(known) if known else settings.clips.count)
        try:
            self._detections = read(manifest, self._store, settings)
        except MissingInputError:
            self._detections = Detections({}, {}, {}, spec.key)
        self._readable = self._detections.readable(manifest.samples)

    @property
    def knows_frames(self) -> bool:
        """Somebody looked into every clip, so that frames are counted."""
        return not self._unknown

    @property
    def is_exact(self) -> bool:
        """Detection lacks nothing, so that all the rest is counted too."""
        return self.knows_frames and bool(self._stored.all())

    @cached_property
    def amounts(self) -> dict[str, Amount]:
        """`detect`, `align`, `extract ROLE` -> its work."""
        seen = int(self._corpus.counts[self._stored].sum())
        unseen = float(self._corpus.counts[~self._stored].sum()) + self._frames_unknown
        times = unseen / seen if seen else 0.0
        later = {stage: amount + amount.expected(times) for stage, (amount, _) in self._counted.items()}
        return {DETECT: self._detect(), **later}

    @cached_property
    def undetected(self) -> list[Sample]:
        """A sample of each photo or clip that detection lacks something of."""
        lacking = {self._corpus.contents[i] for i in np.flatnonzero(~self._stored).tolist()} | set(self._unknown)
        return _first_of_each(sample for sample in self.manifest if sample.content in lacking)

    @cached_property
    def unfinished(self) -> list[Sample]:
        """A sample of each detected photo or clip that a later stage lacks something of."""
        positions = {i for _, owners in self._counted.values() for i in owners.tolist()}
        return _first_of_each(self._readable[i] for i in sorted(positions))

    def _detect(self) -> Amount:
        """Frames, and the bytes of their boxes, of sizes and, for clips, of times."""
        corpus, clips = self._corpus, len(self._unknown)
        rows = self._boxes.count(corpus.keys)
        faces = float(rows[rows >= 0].mean()) if (rows >= 0).any() else 0.0
        of_frame = ITEM_BYTES + faces * row_bytes(self._boxes.spec)
        of_size = ITEM_BYTES + row_bytes(SIZE_SPEC)
        times = self._store.open(TIMES_SPEC).count(item_keys(self._clips.times))
        of_times = ITEM_BYTES + (float(times.mean()) if len(times) else 0.0) * row_bytes(TIMES_SPEC)
        left = float(corpus.lacking(self._boxes, self._sizes).sum()) + self._frames_unknown
        sizes = int((~self._sizes.has(corpus.size_keys)).sum()) + clips
        total = float(len(corpus.keys)) + self._frames_unknown
        return Amount(left, total, left * of_frame + sizes * of_size + clips * of_times)

    @cached_property
    def _counted(self) -> dict[str, tuple[Amount, np.ndarray]]:
        """Of what was detected, by stage: its work, and positions in `_readable` of those that lack something."""
        picked = self._detections.pick(self._readable)
        faces = _Rows.of(picked.keys, picked.counts, picked.owner)
        levels = {"face": faces, "frame": self._rows("frame")}
        crops = [crops_block(name, self._detections.key, self._source) for name in self._templates]
        if any(spec.level == "person" for spec in crops):
            levels["person"] = self._rows("person")
        aligned = [levels[spec.level].work(self._store, [spec]) for spec in crops]
        found = {
            ALIGN: (
                sum((amount for amount, _ in aligned), Amount()),
                np.concatenate([np.empty(0, np.int64), *(owners for _, owners in aligned)]),
            )
        }
        views = {level: rows.viewed(self._views) for level, rows in levels.items()}
        for role in self._roles:
            found[role.stage] = views[role.plan.level].work(self._store, role.blocks)
        return found

    def _rows(self, level: str) -> _Rows:
        """The items of a level that has a row an item."""
        keys, owner = keys_of(self._readable, self._detections, level)
        return _Rows.of(keys, np.ones(len(keys), np.int64), owner)


def _first_of_each(samples: Iterable[Sample]) -> list[Sample]:
    """Those that share their content with none before them."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.content, sample)
    return list(first.values())


@dataclass(frozen=True)
class _Rows:
    """Distinct items of a level: their keys (n,), rows of each (n,), and a sample's position for each (n,)."""

    keys: np.ndarray
    counts: np.ndarray
    owners: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, counts: np.ndarray, owners: np.ndarray) -> _Rows:
        keys, first = np.unique(keys, return_index=True)
        return cls(keys, counts[first], owners[first])

    def viewed(self, settings: ViewSettings) -> _Rows:
        """The same in every view."""
        plain = key_list(self.keys)
        keys = key_array(list(viewed(plain, settings)))
        times = len(keys) // max(len(plain), 1)
        return _Rows(keys, np.tile(self.counts, times), np.tile(self.owners, times))

    def work(self, store: Store, specs: Sequence[BlockSpec]) -> tuple[Amount, np.ndarray]:
        """What some blocks lack of these items. A row that several of them lack is computed once for all of them."""
        lacking = np.zeros(len(self.keys), bool)
        size = whole = 0.0
        for spec in specs:
            lacks = ~store.open(spec).has(self.keys)
            lacking |= lacks
            sizes = self.counts * row_bytes(spec) + ITEM_BYTES
            size, whole = size + float(sizes[lacks].sum()), whole + float(sizes.sum())
        total = float(self.counts.sum()) if specs else 0.0
        amount = Amount(float(self.counts[lacking].sum()), total, size, whole)
        return amount, np.unique(self.owners[lacking])


def row_bytes(spec: BlockSpec) -> int:
    """Bytes of a block's row, uncompressed."""
    return math.prod(spec.shape) * dtypes.stored(spec).itemsize
