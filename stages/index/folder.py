"""Adapter `folder`: one folder per class, optionally under train, val and test.

    root/happy/a.jpg                 labelled, no split given
    root/train/happy/a.jpg           labelled and split (valid, validation and dev mean val)
    root/test/a.jpg, root/a.jpg      photos without a class folder are unlabelled

Folders below a class folder belong to the class. The sample_id is the path below the root. Hidden files and folders,
`__MACOSX` and files of other kinds are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stages.errors import DataError
from stages.index.layout import no_table
from stages.index.manifest import LABEL_SEPARATOR, is_unwritable, printable
from stages.index.options import NoOptions, options_of
from stages.index.raw import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Corpus,
    RawSample,
    Source,
    extension_of,
    media_of,
    split_of,
)
from stages.ledger import Ledger

_EXTENSIONS = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS


def read(source: Source, ledger: Ledger) -> Corpus:
    """List the photos and clips under `source.root`.

    Recorded in the ledger: `bad_name` (a name that no CSV can hold), `permission` (a folder that cannot be listed).

    Raises:
        SettingError: `images`, `columns` or an option is given; none means anything here.
        DataError: the root is not a folder or holds no photos, the layout is mixed, or a class name holds `;`.
    """
    options_of(source, NoOptions)
    no_table(source)
    if not source.root.is_dir():
        raise DataError(f"{source.place}.root {source.root} is not a folder: give the folder that holds the photos")
    paths = []
    for path in sorted(_walk(source, ledger)):
        if is_unwritable(path):
            ledger.record(printable(path), "bad_name", "the name has a control character or is not UTF-8: rename it")
        else:
            paths.append(path)
    if not paths and not len(ledger):
        looked_for = ", ".join(sorted(IMAGE_EXTENSIONS)) + "; clips: " + ", ".join(sorted(VIDEO_EXTENSIONS))
        raise DataError(f"no photos in {source.root} or the folders below it (looked for {looked_for})")
    return Corpus(tuple(_labelled(paths, source.root)), source.root)


def _walk(source: Source, ledger: Ledger) -> Iterator[str]:
    """Yield the posix path below the root of every photo and clip, in no order, following links but not in circles."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        below, above = pending.pop()
        folder = source.root / below
        try:
            status = folder.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue  # a link back to a folder that this one is in
            with os.scandir(folder) as entries:
                found = [(entry.name, entry.is_dir()) for entry in entries]
        except OSError as error:
            if not below:
                raise DataError(f"{source.place}.root {folder} cannot be listed: {error.strerror}") from None
            ledger.record(printable(below), "permission", f"the folder cannot be listed: {error.strerror}")
            continue
        for name, is_folder in found:
            if name.startswith(".") or name == "__MACOSX":
                continue
            path = f"{below}/{name}" if below else name
            if is_folder:
                pending.append((path, above | {identity}))
            elif extension_of(name) in _EXTENSIONS:
                yield path


def _labelled(paths: list[str], root: Path) -> Iterator[RawSample]:
    """Tell from the layout which part of each path is the split and which the label."""
    parted = [tuple(path.split("/")) for path in paths]
    folders = sorted({parts[0] for parts in parted if len(parts) > 1})
    _refuse_loose(parted, root)
    splits = {folder: split_of(folder) for folder in folders}
    named = [folder for folder in folders if splits[folder] is not None]
    others = [folder for folder in folders if splits[folder] is None]
    if named and others:
        raise DataError(
            f"{root} mixes two layouts: {named[0]!r} is a split and {others[0]!r} is not; "
            "put every class folder under train, val or test, or none"
        )
    for folder in named:
        _refuse_loose([parts[1:] for parts in parted if parts[0] == folder], root / folder)
    for path, parts in zip(paths, parted, strict=True):
        depth = 1 if named else 0
        label = (parts[depth],) if len(parts) > depth + 1 else ()
        if label and LABEL_SEPARATOR in label[0]:
            raise DataError(f"class folder {label[0]!r} in {root} holds {LABEL_SEPARATOR!r}, which parts labels")
        yield RawSample(path, path, media_of(path), label, splits[parts[0]] if named else None)


def _refuse_loose(parted: list[tuple[str, ...]], folder: Path) -> None:
    """Refuse photos that lie beside class folders: whether they have a label cannot be told."""
    loose = [parts[0] for parts in parted if len(parts) == 1]
    inner = [parts[0] for parts in parted if len(parts) > 1]
    if loose and inner:
        raise DataError(
            f"{folder} mixes two layouts: the photo {loose[0]!r} lies beside the folder {inner[0]!r}; "
            "put every photo into a class folder, or none"
        )
