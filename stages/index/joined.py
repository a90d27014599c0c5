"""Several data sets in one manifest: what each is read as, whose labels become ours, and what keeps them apart.

The main data set's samples keep their names. Of a further one, NAME stands before the sample_id and the group, and is
the subset of samples that have none. Paths start at the main data set's images, with `../` where they lead out of it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stages.errors import DataError, SettingError
from stages.index.manifest import LABEL_SEPARATOR, SPLITS, Numbers, is_unwritable
from stages.index.raw import Corpus, RawSample, Source
from stages.index.registry import find_adapter
from stages.index.splits import assign_splits
from stages.ledger import Ledger

OWN_SPLITS = "all"
"""`use` of a data set whose own splits, or made ones, hold."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHOWN = 5  # names of a longer list, in a message


@dataclass(frozen=True)
class SetSettings:
    """Where a data set is, what its labels are to us, and how to split it.

    Attributes:
        adapter: see `registry`.
        root: the folder, or the csv file of `csv`.
        images: what paths in a csv are relative to; by default the csv's folder. Only for `csv`.
        columns: our column name -> the csv's. Only for `csv`.
        options: what else the adapter can be told.
        base: the folder that paths in `options` start from.
        val: share of val, used only where a split is made: the data set gives none, and `use` is `"all"`.
        test: share of test, likewise.
        seed: of that split.
        labels: the data set's label -> ours, or None to leave its samples out; empty: labels stay as they are.
        use: `"all"`, or the split that every sample goes to, whatever the data set says.
    """

    adapter: str
    root: Path
    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    base: Path = Path()
    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    labels: Mapping[str, str | None] = field(default_factory=dict)
    use: str = OWN_SPLITS

    @property
    def images_root(self) -> Path:
        """The folder that the data set's relative paths start from."""
        if self.adapter != "csv":
            return self.root
        return self.images or self.root.parent


@dataclass(frozen=True)
class Part:
    """A data set that has been read.

    Attributes:
        name: "" for the main one.
        settings: of the data set.
        corpus: its samples under their own ids and groups, with our labels.
        ledger: what could not be used, by own ids.
        left_out: own label -> samples that the map leaves out; each is counted once, under its first such label.
        unmet: own labels that the map has and no sample.
    """

    name: str
    settings: SetSettings
    corpus: Corpus
    ledger: Ledger
    left_out: Mapping[str, int]
    unmet: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where params.yaml has it."""
        return place_of(self.name)

    def named(self, own: str) -> str:
        """A sample_id or group of the data set as the manifest has it; "" stays ""."""
        return f"{self.name}/{own}" if self.name and own else own

    def split(self, samples: Sequence[RawSample]) -> tuple[Sequence[RawSample], list[str]]:
        """Those of the samples that have a split, and their splits: as `use` says, the data set's, or else made ones.

        Where some have a split the others are recorded as `missing_split`. Made splits follow from this data set alone.

        Raises:
            SettingError: a share is out of range.
        """
        settings = self.settings
        if settings.use != OWN_SPLITS:
            return samples, [settings.use] * len(samples)
        given = [(raw, raw.split) for raw in samples if raw.split is not None]
        if not given:
            shares = {"val": settings.val, "test": settings.test}
            return samples, assign_splits(samples, **shares, seed=settings.seed, place=self.place)
        why = "other items have a split: give this one train, val or test"
        for raw in samples:
            if raw.split is None:
                self.ledger.record(raw.sample_id, "missing_split", why)
        return [raw for raw, _ in given], [split for _, split in given]


def place_of(name: str) -> str:
    """Where params.yaml has a data set; "" is the main one."""
    return f"data.also.{name}" if name else "data"


def name_problem(name: str) -> str | None:
    """What makes a further data set's name unfit, in one line; None when it is fit. It begins sample_ids."""
    if _NAME.fullmatch(name):
        return None
    return f"data set name {name!r}: use letters, digits, _ - . (it begins the sample_ids, as in NAME/a.jpg)"


def label_problem(label: str) -> str | None:
    """What makes a label of ours unfit, in one line; None when it is fit."""
    if not label or label != label.strip() or LABEL_SEPARATOR in label or is_unwritable(label):
        return (
            f"label {label!r}: a label must not be empty, begin or end with a blank, hold {LABEL_SEPARATOR!r} or a "
            "control character; null leaves samples out"
        )
    return None


def read_parts(main: SetSettings, also: Mapping[str, SetSettings]) -> list[Part]:
    """Read the main data set and the further ones, in this order. No photo is looked at.

    Raises:
        SettingError: an adapter, a name, a `use` or a label map that cannot be followed.
        DataError: a data set as a whole cannot be used, or two of them give one sample_id or group.
    """
    for name in also:
        if problem := name_problem(name):
            raise SettingError(f"data.also: {problem}")
    parts = [_read(name, settings) for name, settings in (("", main), *also.items())]
    _require_apart(parts)
    return parts


def path_prefix(images: Path, main: Path) -> str:
    """What stands before a path relative to `images` to make it one relative to `main`: "", or posix with a last `/`.

    Links are resolved first, because the `..` of a path leads up from where a link leads to. On another drive it is
    absolute.
    """
    there = os.path.realpath(images)
    try:
        way = os.path.relpath(there, os.path.realpath(main))
    except ValueError:
        way = there
    return "" if way == os.curdir else Path(way).as_posix().rstrip("/") + "/"


def _read(name: str, settings: SetSettings) -> Part:
    place, ledger = place_of(name), Ledger("index")
    if settings.use not in (OWN_SPLITS, *SPLITS):
        raise SettingError(f"{place}.use is {settings.use!r}: choose one of {', '.join((OWN_SPLITS, *SPLITS))}")
    source = Source(
        *(settings.root, settings.images, settings.columns, place, settings.use == OWN_SPLITS),
        options=settings.options,
        base=settings.base,
    )
    corpus = find_adapter(settings.adapter)(source, ledger)
    if not settings.labels:
        return Part(name, settings, corpus, ledger, {})
    unmet = _require_complete(corpus, settings, place)
    samples, left_out = _relabelled(corpus, settings.labels)
    _require_some(samples, settings, place)
    return Part(name, settings, replace(corpus, samples=samples), ledger, left_out, unmet)


def _require_complete(corpus: Corpus, settings: SetSettings, place: str) -> tuple[str, ...]:
    """Refuse a map that lacks a label; the labels that it has and no sample."""
    for ours in settings.labels.values():
        if ours is not None and (problem := label_problem(ours)):
            raise SettingError(f"{place}.labels: {problem}")
    met = Counter(label for raw in corpus.samples for label in {*raw.labels, *(label for label, _ in raw.shares)})
    if lacking := sorted(met.keys() - settings.labels.keys()):
        more = f" (nor {_listed(lacking[1:])})" if lacking[1:] else ""
        raise SettingError(
            f"{place}.labels has no {lacking[0]!r}{more}, a label of {met[lacking[0]]} sample(s) of {settings.root}: "
            "add it to the map with the label that it becomes, or with null to leave its samples out"
        )
    return tuple(sorted(settings.labels.keys() - met.keys()))


def _relabelled(corpus: Corpus, labels: Mapping[str, str | None]) -> tuple[tuple[RawSample, ...], dict[str, int]]:
    """The samples with our labels, without those that have a label of None, and how many these are by label."""
    kept: list[RawSample] = []
    left_out: Counter[str] = Counter()
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for raw in corpus.samples:
        if (gone := next((label for label in raw.labels if labels[label] is None), None)) is not None:
            left_out[gone] += 1
            continue
        if raw.labels not in known:
            known[raw.labels] = tuple(sorted({ours for label in raw.labels if (ours := labels[label]) is not None}))
        kept.append(replace(raw, labels=known[raw.labels], shares=_mapped(raw.shares, labels)))
    return tuple(kept), dict(sorted(left_out.items()))


def _mapped(shares: Numbers, labels: Mapping[str, str | None]) -> Numbers:
    """Shares of our labels; those of labels that are left out are gone."""
    ours: Counter[str] = Counter()
    for label, share in shares:
        if (name := labels[label]) is not None:
            ours[name] += share  # pyright: ignore[reportArgumentType] - a Counter adds up floats as well
    return tuple(sorted(ours.items()))


def _require_some(samples: Sequence[RawSample], settings: SetSettings, place: str) -> None:
    """Refuse a map that leaves nothing, or a class that no sample has."""
    if not samples:
        raise SettingError(f"{place}.labels leaves out every sample of {settings.root}: map a label to one of ours")
    has = {label for raw in samples for label in (*raw.labels, *(label for label, _ in raw.shares))}
    for theirs, ours in settings.labels.items():
        if ours is not None and ours not in has:
            raise SettingError(
                f"{place}.labels makes {theirs!r} to {ours!r}, a class that no sample of {settings.root} then has "
                f"(it has {_listed(sorted(has)) or 'none'}): correct {theirs!r}, or take it out of the map"
            )


def _require_apart(parts: Sequence[Part]) -> None:
    """Refuse one sample_id, or one group, in two data sets."""
    ids: dict[str, Part] = {}
    groups: dict[str, Part] = {}
    for part in parts:
        own_ids = (*(raw.sample_id for raw in part.corpus.samples), *part.ledger.entries)
        own_groups = {raw.group for raw in part.corpus.samples if raw.group}
        for what, own, taken in (("sample_id", own_ids, ids), ("group", own_groups, groups)):
            _claim(part, what, own, taken)


def _claim(part: Part, what: str, own: Iterable[str], taken: dict[str, Part]) -> None:
    for one in map(part.named, own):
        other = taken.setdefault(one, part)
        if other is not part:
            raise DataError(
                f"{what} {one!r} is in two data sets, {other.place} ({other.settings.root}) and {part.place} "
                f"({part.settings.root}): give {part.place} another name"
            )


def _listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(map(repr, list(names)[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
