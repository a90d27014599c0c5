"""Training samples that are not apart from those that heads are judged by: of the same group, or the same file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from stages.errors import DataError
from stages.index.manifest import Sample
from stages.index.subsets import require_subsets, without
from stages.train.settings import HeadSettings


def overlapping(samples: Sequence[Sample], judged: Collection[str]) -> dict[str, str]:
    """Sample id -> what is shared, of the samples of split train that share a group or their content with a labelled
    sample of the judged splits."""
    theirs = {(what, value): s for s in samples if s.split in judged and s.labels for what, value in _named(s)}
    found: dict[str, str] = {}
    for sample in samples:
        for what, value in _named(sample) if sample.split == "train" and sample.labels else ():
            if (other := theirs.get((what, value))) is not None:
                said = f"group {value!r}" if what == "group" else "the file's content"
                found[sample.sample_id] = f"{said} with {other.sample_id} of split {other.split}"
                break
    return found


def require_trainable(samples: Sequence[Sample], heads: Mapping[str, HeadSettings]) -> None:
    """Refuse a head that leaves out a subset that there is not, or all that there is.

    Raises:
        SettingError, DataError: see `stages.index.subsets`.
    """
    training = [sample for sample in samples if sample.split == "train"]
    for name, head in heads.items():
        where = f"train.heads.{name}.leave_out"
        require_subsets(training, head.leave_out, where)
        without(training, head.leave_out, where)


def trained_by_some(
    samples: Sequence[Sample], found: Mapping[str, str], heads: Mapping[str, HeadSettings]
) -> dict[str, str]:
    """Those of `overlapping` that not every head leaves out."""
    left_out = left_out_by_all(heads)
    return {s.sample_id: found[s.sample_id] for s in samples if s.sample_id in found and s.subset not in left_out}


def left_out_by_all(heads: Mapping[str, HeadSettings]) -> set[str]:
    """The subsets that no head is trained on."""
    return set.intersection(*(set(head.leave_out) for head in heads.values()))


def require_none(found: dict[str, str]) -> None:
    """Refuse to train on what heads are judged by.

    Raises:
        DataError: names how many samples there are, and the first.
    """
    if found:
        first = min(found)
        raise DataError(
            f"{len(found)} samples of split train are not apart from those that heads are judged by: {first} shares "
            f"{found[first]}; take them out of one of the splits, or set train.overlap to leave_out"
        )


def _named(sample: Sample) -> list[tuple[str, str]]:
    group = [("group", sample.group)] if sample.group else []
    return [*group, ("content", sample.content)]
