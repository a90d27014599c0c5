"""Index: from one data set, or several, to a manifest."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import DataError, MediaError
from stages.index.contents import Content, ContentIndex
from stages.index.joined import Part, SetSettings, path_prefix, read_parts
from stages.index.manifest import Manifest, Numbers, Sample
from stages.index.packed import contents as packed_contents
from stages.index.packed import place_of
from stages.index.raw import RawSample
from stages.index.summary import IndexSummary, summarise, summarise_set
from stages.ledger import Ledger
from stages.progress import progress

Row = tuple[Part, RawSample]


@dataclass(frozen=True)
class IndexSettings(SetSettings):
    """The main data set, and further ones.

    Attributes:
        also: name -> a further data set; the name begins its sample_ids: letters, digits, `_`, `-` and `.`.
    """

    also: Mapping[str, SetSettings] = field(default_factory=dict)


def images_root(settings: SetSettings) -> Path:
    """The folder that the manifest's relative paths start from: that of the main data set."""
    return settings.images_root


def run(settings: IndexSettings, *, contents: ContentIndex, ledger: Ledger) -> tuple[Manifest, IndexSummary, int]:
    """Read the data sets, look at every file once, and tell what there is.

    A split that a data set gives is kept as it is, with or without val, unless its `use` names another. Recorded in the
    ledger, besides what the adapters record: `missing`, `empty`, `permission`, `not_a_file`, `unreadable`, and
    `missing_split` (no split where others of the data set have one). Photos are not decoded here.

    Returns:
        The manifest, a summary, and how many items there were in all, those in the ledger included; without those that
        a map of labels leaves out.

    Raises:
        SettingError: an adapter that is not there, or a setting that it cannot follow; a map that lacks a label.
        DataError: a data set as a whole cannot be used, no item of it is left, or two have one sample_id or group.
    """
    parts = read_parts(settings, settings.also)
    rows = [(part, raw) for part in parts for raw in part.corpus.samples]
    hashes = _hashes(rows, contents)
    disputed = _disputed(rows, hashes)
    samples: dict[str, list[Sample]] = {}
    try:
        for part in parts:
            prefix = path_prefix(part.corpus.images, settings.images_root)
            samples[part.place] = _samples(part, prefix, hashes, disputed)
    finally:
        _record(parts, ledger)
    manifest = Manifest(tuple(sample for of_part in samples.values() for sample in of_part))
    summary = summarise(
        manifest,
        sum(part.corpus.merged_rows for part in parts),
        {part.place: summarise_set(samples[part.place], part.left_out) for part in parts},
    )
    summary.warnings += [f"{part.place}: {note}" for part in parts for note in part.corpus.notes]
    summary.warnings += [
        f"{part.place}.labels names {label!r}, which no sample has" for part in parts for label in part.unmet
    ]
    return manifest, summary, len(manifest) + len(ledger)


def _record(parts: Sequence[Part], ledger: Ledger) -> None:
    """What could not be used of each data set, under the manifest's sample_ids."""
    for part in parts:
        for own, (reason, detail) in part.ledger.entries.items():
            ledger.record(part.named(own), reason, detail)


def _samples(part: Part, prefix: str, hashes: Mapping[str, str], disputed: Mapping[str, str]) -> list[Sample]:
    """The samples of a data set, with splits, named as the manifest names them."""
    kept, splits = part.split([raw for raw in part.corpus.samples if part.named(raw.sample_id) in hashes])
    if not kept:
        first = next(iter(sorted(part.ledger.entries.items())), None)
        why = f"; the first: {part.named(first[0])}: {first[1][0]}, {first[1][1]}" if first else ""
        raise DataError(f"none of the {len(part.ledger)} item(s) of {part.settings.root} can be used{why}")
    samples = []
    for raw, split in zip(kept, splits, strict=True):
        name = part.named(raw.sample_id)
        samples.append(
            Sample(
                sample_id=name,
                path=raw.path if os.path.isabs(raw.path) else prefix + raw.path,  # noqa: PTH117 - Path objects are slow
                media=disputed.get(hashes[name], raw.media),
                labels=raw.labels,
                split=split,
                group=part.named(raw.group),
                subset=raw.subset or part.name,
                boxes=raw.boxes,
                content=hashes[name],
                shares=_of_one(raw.shares),
                values=raw.values,
            )
        )
    return samples


def _of_one(shares: Numbers) -> Numbers:
    """Shares with a sum of 1, without those of 0."""
    total = math.fsum(share for _, share in shares)
    return tuple((label, share / total) for label, share in shares if share > 0) if total > 0 else ()


def _hashes(rows: Sequence[Row], contents: ContentIndex) -> dict[str, str]:
    """The manifest's sample_id -> SHA-256 of the file or packed picture, for what can be read and is not empty."""
    roots = {part.name: os.path.abspath(part.corpus.images) for part, _ in rows}  # noqa: PTH100 - links are kept
    paths = [os.path.join(roots[part.name], raw.path) for part, raw in rows]  # noqa: PTH118 - as above, Path is slow
    found = progress(_contents(paths, contents), total=len(paths), desc="index", unit="file")
    hashes = {}
    for (part, raw), path, content in zip(rows, paths, found, strict=True):
        if isinstance(content, MediaError):
            part.ledger.record(raw.sample_id, content.reason, content.detail.replace(path, raw.path))
        elif content.size == 0:
            part.ledger.record(raw.sample_id, "empty", "the file has no bytes")
        else:
            hashes[part.named(raw.sample_id)] = content.sha256
    return hashes


def _contents(paths: Sequence[str], contents: ContentIndex) -> Iterator[Content | MediaError]:
    """What is at each path, in their order."""
    is_packed = [place_of(path) is not None for path in paths]
    files = contents.many([path for path, packed in zip(paths, is_packed, strict=True) if not packed])
    pictures = packed_contents([path for path, packed in zip(paths, is_packed, strict=True) if packed])
    for packed in is_packed:
        yield next(pictures if packed else files)


def _disputed(rows: Sequence[Row], hashes: Mapping[str, str]) -> dict[str, str]:
    """Content -> medium by its bytes, of what some rows name as a photo and others as a clip: one content is one."""
    named: dict[str, set[str]] = {"image": set(), "video": set()}
    for part, raw in rows:
        if (content := hashes.get(part.named(raw.sample_id))) is not None:
            named[raw.media].add(content)
    both = named["image"] & named["video"]
    if not both:
        return {}
    from stages.index.media import is_probably_video  # here: no photo is opened otherwise

    media: dict[str, str] = {}
    for part, raw in rows:
        content = hashes.get(part.named(raw.sample_id))
        if content in both and raw.media == "video":  # whose name tells where the bytes tell nothing
            media[content] = "video" if is_probably_video(part.corpus.images / raw.path) else "image"
    return media
