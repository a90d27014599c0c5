"""Index: from a corpus to a manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import DataError, MediaError
from stages.index.contents import ContentIndex
from stages.index.manifest import Manifest, Sample
from stages.index.raw import Corpus, RawSample, Source
from stages.index.registry import find_adapter
from stages.index.splits import assign_splits
from stages.index.summary import IndexSummary, summarise
from stages.ledger import Ledger
from stages.progress import progress


@dataclass(frozen=True)
class IndexSettings:
    """Where the corpus is, and how to split it where it gives no split.

    Attributes:
        adapter: `"folder"` or `"csv"`.
        root: the folder, or the csv file.
        images: what paths in a csv are relative to; by default the csv's folder. Not for `folder`.
        columns: our column name -> the csv's. Not for `folder`.
        val: share of val, used only where the corpus gives no split.
        test: share of test, likewise.
        seed: of that split.
    """

    adapter: str
    root: Path
    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    val: float = 0.15
    test: float = 0.15
    seed: int = 0


def images_root(settings: IndexSettings) -> Path:
    """The folder that the manifest's relative paths start from."""
    if settings.adapter == "folder":
        return settings.root
    return settings.images or settings.root.parent


def run(settings: IndexSettings, *, contents: ContentIndex, ledger: Ledger) -> tuple[Manifest, IndexSummary, int]:
    """Read a corpus, look at every file once, and tell what there is.

    A split that the corpus gives is kept as it is, with or without val. Recorded in the ledger, besides what the
    adapter records: `missing`, `empty`, `permission`, `not_a_file`, `unreadable`, and `missing_split` (no split where
    others have one). Photos are not decoded here.

    Returns:
        The manifest, a summary, and how many items there were in all, those in the ledger included.

    Raises:
        SettingError: an adapter that is not there, or a setting that it cannot follow.
        DataError: the corpus as a whole cannot be used, or no item of it is left.
    """
    corpus = find_adapter(settings.adapter)(Source(settings.root, settings.images, settings.columns), ledger)
    hashes = _hashes(corpus, contents, ledger)
    disputed = _disputed(corpus, hashes)
    present = [raw for raw in corpus.samples if raw.sample_id in hashes]
    kept, splits = _split(present, settings, ledger)
    total = len(kept) + len(ledger)
    if not kept:
        first = next(iter(sorted(ledger.entries.items())), None)
        why = f"; the first: {first[0]}: {first[1][0]}, {first[1][1]}" if first else ""
        raise DataError(f"none of the {total} item(s) of {settings.root} can be used{why}")
    samples = (
        Sample(
            sample_id=raw.sample_id,
            path=raw.path,
            media=disputed.get(hashes[raw.sample_id], raw.media),
            labels=raw.labels,
            split=split,
            group=raw.group,
            subset=raw.subset,
            boxes=raw.boxes,
            content=hashes[raw.sample_id],
        )
        for raw, split in zip(kept, splits, strict=True)
    )
    manifest = Manifest(tuple(samples))
    return manifest, summarise(manifest, corpus.merged_rows), total


def _hashes(corpus: Corpus, contents: ContentIndex, ledger: Ledger) -> dict[str, str]:
    """sample_id -> SHA-256 of its file, for the files that can be read and are not empty."""
    root = os.path.abspath(corpus.images)  # noqa: PTH100 - links are kept
    paths = [os.path.join(root, raw.path) for raw in corpus.samples]  # noqa: PTH118 - 100,000 Path objects are slow
    found = progress(contents.many(paths), total=len(paths), desc="index", unit="file")
    hashes = {}
    for raw, path, content in zip(corpus.samples, paths, found, strict=True):
        if isinstance(content, MediaError):
            ledger.record(raw.sample_id, content.reason, content.detail.replace(path, raw.path))
        elif content.size == 0:
            ledger.record(raw.sample_id, "empty", "the file has no bytes")
        else:
            hashes[raw.sample_id] = content.sha256
    return hashes


def _disputed(corpus: Corpus, hashes: Mapping[str, str]) -> dict[str, str]:
    """Content -> medium by its bytes, of what some rows name as a photo and others as a clip: one content is one."""
    present = [raw for raw in corpus.samples if raw.sample_id in hashes]
    photos, clips = ({hashes[raw.sample_id] for raw in present if raw.media == media} for media in ("image", "video"))
    both = photos & clips
    if not both:
        return {}
    from stages.index.media import is_probably_video  # here: no photo is opened otherwise

    media: dict[str, str] = {}
    for raw in present:
        content = hashes[raw.sample_id]
        if content in both and raw.media == "video":  # whose name tells where the bytes tell nothing
            media[content] = "video" if is_probably_video(corpus.images / raw.path) else "image"
    return media


def _split(
    samples: Sequence[RawSample], settings: IndexSettings, ledger: Ledger
) -> tuple[Sequence[RawSample], list[str]]:
    """The samples that have a split, and their splits: those of the corpus, or else ours."""
    given = [(raw, raw.split) for raw in samples if raw.split is not None]
    if not given:
        return samples, assign_splits(samples, val=settings.val, test=settings.test, seed=settings.seed)
    for raw in samples:
        if raw.split is None:
            ledger.record(raw.sample_id, "missing_split", "other items have a split: give this one train, val or test")
    return [raw for raw, _ in given], [split for _, split in given]
