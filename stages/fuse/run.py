"""Fusion: weighted means of the members' class probabilities (Gupta et al. 2018, section 3.2.4).

The weights are given, so nothing is fitted and no split is used up.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stages import predictions as prediction_files
from stages.backbones.weights import hash_file
from stages.errors import DataError, MissingInputError, SettingError
from stages.fuse.settings import EnsembleSettings, FuseSettings
from stages.predictions import COMMANDS, FOLDERS, WORDS, Predictions, require_held_out
from stages.tables import write_csv
from stages.train import attention as attention_files
from stages.train.models import save_ensemble
from stages.whole import replaced

FUSED = ("predictions/fused", "attention/fused", "models/fused")
"""What the stage writes, under `artifacts`."""

MADE_OF_COLUMNS = ("member", "sha256")
_MEMBERS = ("heads", "finetuned")
"""Folders of predictions that are averaged."""


def run(settings: FuseSettings, artifacts: Path, judged: str = "test") -> list[Predictions]:
    """Fuse what is in `predictions/heads` and `predictions/finetuned` of `artifacts`; write `predictions/fused/`,
    `attention/fused/` and `models/fused/`.

    What an earlier run wrote there stays until all ensembles are written. An ensemble gets a model
    folder, and attention, where all of its members have them: a fine-tuned network has neither.

    Args:
        judged: the split that `evaluate` scores, of which no member's fine-tuned weights may have seen a sample.

    Raises:
        MissingInputError: there are no predictions.
        SettingError: an ensemble names a member that does not exist, or names one twice.
        DataError: members differ in their samples or classes or in how many labels they answer with, or one has seen
            samples of `judged`.
    """
    folder = artifacts / "predictions"
    paths = [path for name in _MEMBERS for path in sorted((folder / name).glob("*.csv"))]
    if not paths:
        raise MissingInputError(f"{folder / 'heads'}: no predictions; run kuleshov train")
    known = [prediction_files.read(path) for path in paths]
    jobs = {name: members_of(name, ensemble, known) for name, ensemble in settings.ensembles.items()}
    for name, (members, _) in jobs.items():
        for one in members:
            who = f"fuse.ensembles.{name}: {WORDS[one.kind]} {one.name}"
            require_held_out(who, one.sample_ids, one.splits, one.seen, judged)
    jobs = {name: (in_common(members), weights) for name, (members, weights) in jobs.items()}
    fused = [mean_of(name, members, weights) for name, (members, weights) in jobs.items()]
    with replaced(artifacts, FUSED) as out:
        for result, (name, (members, weights)) in zip(fused, jobs.items(), strict=True):
            prediction_files.write(out / "predictions" / "fused" / f"{name}.csv", result)
            write_csv(made_of(out, name), MADE_OF_COLUMNS, _hashes(artifacts, members))
            attention = [artifacts / "attention" / "heads" / f"{m.name}.csv" for m in members]
            if all(path.is_file() for path in attention):
                mean = attention_files.mean_of([attention_files.read(path) for path in attention], weights)
                attention_files.write(out / "attention" / "fused" / f"{name}.csv", mean)
            folders = {m.name: artifacts / "models" / "heads" / m.name for m in members}
            if all((folder / "model.json").is_file() for folder in folders.values()):
                save_ensemble(out / "models" / "fused" / name, name, folders, weights)
    return fused


def made_of(artifacts: Path, name: str) -> Path:
    """Where the members of an ensemble are listed, each with the SHA-256 of the answers that it had."""
    return artifacts / "predictions" / "fused" / "of" / f"{name}.csv"


def require_current(artifacts: Path, fused: Sequence[Predictions]) -> None:
    """Refuse ensembles of answers that are no longer there.

    Raises:
        DataError: names the ensemble and the member.
    """
    for one in fused:
        try:
            with open(made_of(artifacts, one.name), newline="", encoding="utf-8") as handle:
                was = {row["member"]: row["sha256"] for row in csv.DictReader(handle)}
        except FileNotFoundError:  # of an earlier version
            continue
        for member, sha256 in was.items():
            found = artifacts / "predictions" / member
            if not found.is_file() or hash_file(found) != sha256:
                raise DataError(
                    f"ensemble {one.name} was fused of other answers than {found} has now: run kuleshov fuse again"
                )


def _hashes(artifacts: Path, members: Sequence[Predictions]) -> Iterator[tuple[str, str]]:
    folders = {kind: folder for folder, kind in FOLDERS.items()}
    for one in members:
        path = f"{folders[one.kind]}/{one.name}.csv"
        yield path, hash_file(artifacts / "predictions" / path)


def members_of(
    name: str, ensemble: EnsembleSettings, known: Sequence[Predictions]
) -> tuple[list[Predictions], list[float]]:
    """The members an ensemble names, in the order of `known`, and their weights, which sum to 1.

    Args:
        known: heads and fine-tunes, no two of one name.

    Raises:
        SettingError: a name is not among `known`, or a member is named twice (by itself, or by itself and its head).
    """
    where = f"fuse.ensembles.{name}.members"
    weights: dict[str, float] = {}
    for i, member in enumerate(ensemble.members):
        found = [p.name for p in known if member in (p.name, p.head)]
        if not found:
            names = ", ".join(sorted({p.head for p in known}))
            raise SettingError(
                f"{where}: no head or fine-tune {member!r}; there are {names}, and each one's seeds as HEAD-sSEED"
            )
        share = ensemble.weights[i] / len(found) if ensemble.weights else 1.0
        for one in found:
            if one in weights:
                raise SettingError(f"{where}: {one} is named twice, the second time as {member!r}; name it once")
            weights[one] = share
    total = sum(weights.values())
    chosen = [p for p in known if p.name in weights]
    return chosen, [weights[p.name] / total for p in chosen]


def in_common(members: Sequence[Predictions]) -> list[Predictions]:
    """The members on the samples that all of them answer, where one is a fine-tune: on faces it has no answer where
    there is no face. Heads alone stay as they are: they are to have the same samples."""
    if all(member.kind == "head" for member in members):
        return list(members)
    shared = set.intersection(*(set(member.sample_ids) for member in members))
    return [member.picked([name in shared for name in member.sample_ids]) for member in members]


def mean_of(name: str, members: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Weighted mean of the members' probabilities, or of their scores where they answer with several labels; a sample
    that one of them has seen is seen.

    Args:
        weights: one per member, none negative, not all 0; they need not sum to 1.

    Raises:
        DataError: members differ in their samples, their splits and labels, or the order of their classes, or some
            answer with several labels and others with one.
    """
    first = members[0]
    for other in members[1:]:
        if other.several != first.several:
            one, many = (first, other) if other.several else (other, first)
            raise DataError(
                f"ensemble {name!r}: {many.name} answers with several labels and {one.name} with one: their numbers "
                "have no mean; fuse them apart (fuse.ensembles)"
            )
        if other.classes != first.classes:
            raise DataError(
                f"ensemble {name!r}: {other.name} has classes {other.classes}, {first.name} {first.classes}"
            )
        if other.sample_ids != first.sample_ids:  # of heads; see `in_common`
            only = sorted(set(other.sample_ids) ^ set(first.sample_ids))
            differ = f"different samples ({len(only)}, such as {only[0]!r})" if only else "samples in another order"
            raise DataError(
                f"ensemble {name!r}: {other.name} and {first.name} predict {differ}; give their heads the same blocks, "
                "or mend what failures/train.csv names"
            )
        if (other.splits, other.labels) != (first.splits, first.labels):
            raise DataError(
                f"ensemble {name!r}: {other.name} and {first.name} differ in splits or labels; run "
                f"{' and '.join(dict.fromkeys(COMMANDS[one.kind] for one in (first, other)))} again"
            )
    stacked = np.stack([p.probabilities for p in members])
    mean = np.tensordot(np.asarray(weights), stacked, axes=1)
    whole = np.full((len(mean), 1), sum(weights)) if first.several else mean.sum(1, keepdims=True)
    return Predictions(
        name=name,
        kind="fused",
        head=name,
        seed=None,
        sample_ids=first.sample_ids,
        splits=first.splits,
        labels=first.labels,
        classes=first.classes,
        probabilities=np.minimum(mean / whole, 1),
        seen=np.logical_or.reduce([p.seen for p in members]),
        several=first.several,
    )
