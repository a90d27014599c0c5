"""The forms in which `kuleshov cache export` writes blocks; parquet needs pyarrow, which is not installed with us."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.export import Samples, is_feature, named, notes_of, opened, pooled, whole_file, write_h5, write_npz
from cache.keys import BlockSpec
from cache.store import Store
from cache.why import select
from stages.errors import DataError, SettingError

FORMS = (".h5", ".hdf5", ".npz", ".parquet")


def export(
    out: Path, store: Store, names: Sequence[str], *, overwrite: bool = False, samples: Samples | None = None
) -> str:
    """Write blocks to one file, in the form that the name's ending says; what was done, as a line.

    Args:
        names: of blocks, see `cache.why.names_block`; all blocks where it is empty.
        samples: added to an HDF5, see `cache.export.write_h5`.

    Raises:
        SettingError: the ending is not known or does not take samples, or parquet is asked for without pyarrow.
        DataError: there is nothing to export, or a block that is named cannot be pooled.
        cache.errors.CacheError: no such block, damage, or the file cannot be written.
    """
    form = out.suffix.lower()
    if form not in FORMS:
        raise SettingError(f"{out}: its ending is {form!r}; use .h5 for all rows, .npz or .parquet for pooled features")
    whole_rows = form in {".h5", ".hdf5"}
    if samples is not None and not whole_rows:
        raise SettingError(f"{out}: only .h5 takes --samples; leave it out, or name an .h5")
    specs = [info.spec for info in select(store, names, shared=True)]
    if not whole_rows:
        unfit = next((spec for spec in specs if not is_feature(spec)), None)
        if names and unfit is not None:
            raise DataError(
                f"{unfit.name} is no feature vector (a row is {'x'.join(map(str, unfit.shape))}); export it as .h5"
            )
        specs = [spec for spec in specs if is_feature(spec)]
    if not specs:
        raise DataError(f"{store.root} has no {'block' if whole_rows else 'features'} to export; run kuleshov extract")
    if whole_rows:
        count = write_h5(out, store, specs, overwrite=overwrite, samples=samples)
    else:
        count = (write_npz if form == ".npz" else write_parquet)(out, store, specs, overwrite=overwrite)
    blocks = f"{len(specs)} block{'' if len(specs) == 1 else 's'}"
    return f"{out}: {blocks}, {count} {'rows' if whole_rows else 'items'}"


def write_parquet(out: Path, store: Store, specs: Sequence[BlockSpec], *, overwrite: bool = False) -> int:
    """Write pooled features as one parquet file, a row an item, in bounded memory.

    Columns: `block` (`LEVEL/SOURCE/TAP`, see `cache.export.named`), `key` (of the block, hex), `item` (its key, hex),
    `rows` (int64, how many were pooled), `features` (list of float32). The schema's metadata have each block's notes,
    as `NAME/notes/NOTE`. Returns the number of items written.

    Raises:
        SettingError: pyarrow is not installed.
        StorePlaceError, DamagedError: as `cache.export.write_h5`.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise SettingError(f"{out}: parquet needs pyarrow, which is not installed; pip install pyarrow") from None
    text = arrow.string()
    fields = {"block": text, "key": text, "item": text, "rows": arrow.int64(), "features": arrow.list_(arrow.float32())}
    found = [(name, notes_of(store, spec)) for name, spec in named(specs).items()]
    said = {f"{name}/notes/{note}": content for name, some in found for note, content in some.items()}
    schema = arrow.schema(list(fields.items()), metadata=said or None)

    def fill(temporary: Path) -> int:
        total = 0
        with parquet.ParquetWriter(temporary, schema) as writer:
            for name, spec in named(specs).items():
                for part in pooled(opened(store, spec)):
                    n, width = part.features.shape
                    ends = arrow.array(np.arange(n + 1, dtype=np.int32) * width)
                    columns = [
                        arrow.array([name] * n, text),
                        arrow.array([spec.key] * n, text),
                        arrow.array([bytes(key).hex() for key in part.keys], text),
                        arrow.array(part.counts),
                        arrow.ListArray.from_arrays(ends, arrow.array(part.features.ravel())),
                    ]
                    writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
                    total += n
        return total

    return whole_file(out, fill, overwrite=overwrite)
