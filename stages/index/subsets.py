"""Parts of the training split, by the manifest's `subset`, that one fine-tune or head leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from stages.errors import DataError, SettingError
from stages.index.manifest import Sample


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)}: a subset occurs twice")
    return tuple(sorted(names))


Subsets = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_each_once)]
"""Names of subsets, sorted: in which order they are given changes nothing."""


def require_subsets(samples: Iterable[Sample], names: Collection[str], where: str) -> None:
    """Refuse the name of a subset that no training sample has.

    Args:
        samples: of the training split.
        where: the setting that names them.

    Raises:
        SettingError: lists the subsets that there are.
    """
    known = {sample.subset for sample in samples} - {""}
    unknown = sorted(set(names) - known)
    if unknown:
        raise SettingError(
            f"{where} has {unknown[0]!r}, and no training sample is of such a subset: there are "
            f"{', '.join(sorted(known)) or 'none'}"
        )


def without(samples: Sequence[Sample], names: Collection[str], where: str) -> list[Sample]:
    """The training samples that are of none of these subsets.

    Args:
        samples, where: see `require_subsets`.

    Raises:
        DataError: there were some, and none is left.
    """
    left = [sample for sample in samples if sample.subset not in names]
    if samples and not left:
        raise DataError(f"{where} leaves out all {len(samples)} training samples: name fewer subsets")
    return left
