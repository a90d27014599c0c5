"""Members that answer with several labels: what is in the section `several` of metrics.json.

Their scores are average precisions, see `stages.evaluate.precision`. A sample with any label is scored, one without is
not. Fractions in [0, 1], None where not defined:

- `n` scored samples, `n_unscored` (no label), `n_failed` (no member has an answer), `interval` as in metrics.json;
- `classes`, and `undefined`: those that no scored sample has. They have no average precision, means are without them;
- `baseline`: the scores of one score for all samples, which is each class's share of them;
- `heads` {HEAD: `n`, `n_missing`, `mean_average_precision` {`mean`, `sd`, `n_seeds`, `low`, `high`, `n`} (sd over
  seeds, None for one; the interval is that of the mean over seeds), `average_precision` {CLASS: the same, n = samples
  of it}, `over_baseline` (paired difference of the mean average precisions), `seeds` {SEED: scores}}, on the samples
  that every seed has; `finetuned` {NAME: the same};
- `fused` {NAME: scores, `n_missing`, `over_baseline`};
- `subsets` {SUBSET: `n`, `baseline`, `heads` {HEAD: estimate of the mean over seeds}, `finetuned` {NAME: the same},
  `fused` {NAME: estimate}}, of mean average precisions.

Scores are `n`, `mean_average_precision` and `average_precision` {CLASS: estimate}.
"""

from __future__ import annotations

import statistics as plain
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.precision import Precisions, as_scores, mean_of, precisions, shares
from stages.evaluate.scoring import few_units, inside, interval_note, units_of
from stages.evaluate.statistics import Bootstrap, Floats, Ints, rounded
from stages.index.manifest import Manifest
from stages.predictions import Kind, Predictions

METHOD = "percentile bootstrap; of means over classes the basic bootstrap"
SECTIONS: dict[Kind, str] = {"head": "heads", "finetuned": "finetuned"}


@dataclass(frozen=True, eq=False)
class _Table:
    """The scored samples of one split, by id: those with a label.

    Attributes:
        row: sample id -> its place.
        actual: bool (n, K), which labels each has.
        units, unit: int64 (n,), what is resampled together, and whether that is a `sample` or a `group`.
        subsets: (n,) str ("" = none).
        classes: the members' columns first, then classes that only the manifest has.
    """

    row: Mapping[str, int]
    actual: NDArray[np.bool_]
    units: Ints
    unit: str
    subsets: NDArray[np.str_]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.actual)


@dataclass(frozen=True, eq=False)
class _Answers:
    """A member's answers: int64 (m,) places of samples, ascending, and their scores, float64 (m, K)."""

    rows: Ints
    scores: Floats


Trained = dict[str, dict[str, dict[int, _Answers]]]
"""Section -> name -> seed -> answers."""


def section(
    predictions: Sequence[Predictions], manifest: Manifest, *, split: str, resamples: int, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Score members of several labels on one split: the section of metrics.json, and its warnings.

    Args:
        predictions: at least one, all of several labels; the rest as for `evaluate`.

    Raises:
        DataError: as `evaluate`.
    """
    samples = inside(predictions, manifest, split)
    scored = [sample for sample in samples if sample.labels]
    columns = predictions[0].classes
    extra = sorted({label for sample in scored for label in sample.labels} - set(columns))
    classes = (*columns, *extra)
    actual = np.array([[name in sample.labels for name in classes] for sample in scored], np.bool_)
    units, unit = units_of(scored)
    table = _Table(
        row={sample.sample_id: i for i, sample in enumerate(scored)},
        actual=actual.reshape(-1, len(classes)),
        units=units,
        unit=unit,
        subsets=np.array([sample.subset for sample in scored], str),
        classes=classes,
    )
    every = {(p.kind, p.name): _answers(p, table) for p in predictions}
    trained = {section: _by_name(predictions, every, kind) for kind, section in SECTIONS.items()}
    fused = {p.name: every[p.kind, p.name] for p in sorted(predictions, key=lambda p: p.name) if p.kind == "fused"}
    boot = Bootstrap(units, resamples, seed)
    answered = {int(row) for member in every.values() for row in member.rows}
    undefined = [name for name, count in zip(classes, table.actual.sum(0), strict=True) if not count]
    found = {
        "n": len(scored),
        "n_unscored": len(samples) - len(scored),
        "n_failed": len(scored) - len(answered),
        "interval": {**interval_note(units, unit, resamples, seed), "method": METHOD},
        "classes": list(classes),
        "undefined": undefined,
        "baseline": as_scores(shares(table.actual, boot), classes),
        **{kind: {name: _trained(table, one, boot) for name, one in some.items()} for kind, some in trained.items()},
        "fused": {name: _fused(table, one, boot) for name, one in fused.items()},
        "subsets": _subsets(table, trained, fused, boot),
    }
    return found, _warnings(table, manifest, every, undefined, split)


def _answers(member: Predictions, table: _Table) -> _Answers:
    """A member's answers to the scored samples it has; a class without a column has the score 0 for all."""
    found = [(table.row[sample_id], i) for i, sample_id in enumerate(member.sample_ids) if sample_id in table.row]
    pairs = np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
    missing = np.zeros((len(pairs), len(table.classes) - len(member.classes)))
    return _Answers(pairs[:, 0], np.concatenate([member.probabilities[pairs[:, 1]], missing], axis=1))


def _by_name(
    predictions: Sequence[Predictions], every: Mapping[tuple[str, str], _Answers], kind: Kind
) -> dict[str, dict[int, _Answers]]:
    """Head or fine-tune -> seed -> answers, each on the samples that every seed of it has."""
    members: dict[str, dict[int, _Answers]] = {}
    for p in sorted(predictions, key=lambda p: (p.head, p.seed or 0)):
        if p.kind == kind:
            members.setdefault(p.head, {})[p.seed or 0] = every[p.kind, p.name]
    for seeds in members.values():
        common = set.intersection(*(set(one.rows.tolist()) for one in seeds.values()))
        for seed, one in seeds.items():
            keep = np.fromiter((row in common for row in one.rows.tolist()), np.bool_, len(one.rows))
            seeds[seed] = _Answers(one.rows[keep], one.scores[keep])
    return members


def _precisions(table: _Table, member: _Answers, boot: Bootstrap, keep: NDArray[np.bool_] | None = None) -> Precisions:
    """Of a member, on the samples where `keep`, bool (n,), is true."""
    some = slice(None) if keep is None else keep[member.rows]
    rows = member.rows[some]
    return precisions(table.actual[rows], member.scores[some], boot.take(rows))


def _over_baseline(table: _Table, rows: Ints, found: Precisions, boot: Bootstrap) -> dict[str, Any]:
    return {
        "n_missing": len(table) - len(rows),
        "over_baseline": found.over(shares(table.actual[rows], boot.take(rows))),
    }


def _fused(table: _Table, member: _Answers, boot: Bootstrap) -> dict[str, Any]:
    found = _precisions(table, member, boot)
    return {**as_scores(found, table.classes), **_over_baseline(table, member.rows, found, boot)}


def _trained(table: _Table, seeds: Mapping[int, _Answers], boot: Bootstrap) -> dict[str, Any]:
    each = {str(seed): _precisions(table, member, boot) for seed, member in seeds.items()}
    whole = mean_of(list(each.values()))
    scores = {seed: as_scores(one, table.classes) for seed, one in each.items()}
    found = as_scores(whole, table.classes)
    name = "mean_average_precision"
    found[name] = _over_seeds(found[name], [one[name] for one in scores.values()])
    name = "average_precision"
    found[name] = {c: _over_seeds(one, [of[name][c] for of in scores.values()]) for c, one in found[name].items()}
    rows = next(iter(seeds.values())).rows
    return {**found, **_over_baseline(table, rows, whole, boot), "seeds": scores}


def _over_seeds(whole: Mapping[str, Any], each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over seeds and its interval, with their deviation."""
    values = [one["value"] for one in each if one["value"] is not None]
    sd = rounded(plain.stdev(values)) if len(values) > 1 else None
    ends = {key: whole[key] for key in ("low", "high", "n")}
    return {"mean": whole["value"], "sd": sd, "n_seeds": len(each), **ends}


def _subsets(table: _Table, trained: Trained, fused: Mapping[str, _Answers], boot: Bootstrap) -> dict[str, Any]:
    """Mean average precisions of every member within each subset; empty when the manifest names none."""
    names = sorted(set(table.subsets.tolist()))
    found: dict[str, Any] = {}
    for subset in names if names != [""] else []:
        keep = table.subsets == subset
        found[subset] = {
            "n": int(keep.sum()),
            "baseline": shares(table.actual[keep], boot.take(keep)).mean,
            **{
                section: {
                    name: mean_of([_precisions(table, one, boot, keep) for one in seeds.values()]).mean
                    for name, seeds in members.items()
                }
                for section, members in trained.items()
            },
            "fused": {name: _precisions(table, one, boot, keep).mean for name, one in fused.items()},
        }
    return found


def _warnings(
    table: _Table,
    manifest: Manifest,
    every: Mapping[tuple[str, str], _Answers],
    undefined: Sequence[str],
    split: str,
) -> list[str]:
    """What makes the scores less than they seem."""
    if not len(table):
        return [f"no sample of {split} has a label: nothing is scored"]
    found = few_units(table.units, table.unit)
    if undefined:
        total = len(table.classes)
        found.append(
            f"{len(undefined)} of {total} classes have no sample in {split}, no average precision, and are left out of "
            f"its mean: {', '.join(undefined)}"
        )
    known = {label for sample in manifest.samples if sample.split == "train" for label in sample.labels}
    untaught = [name for name in table.classes if name not in known and name not in undefined]
    if untaught:
        found.append(f"classes without a training sample, ranked by nothing: {', '.join(untaught)}")
    lacking = len(table) - min(len(member.rows) for member in every.values())
    if lacking:
        found.append(
            f"{lacking} of {len(table)} samples lack an answer with several labels: members are scored without them, "
            "the baseline with"
        )
    return found


def members(found: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any], str]]:
    """`(name, kind, scores, key)` of every member of a section: ensembles, heads and fine-tunes; `key` is what its
    value is under, `value` or `mean`."""
    rows = [(name, "fused", one, "value") for name, one in found["fused"].items()]
    return rows + [
        (name, kind, one, "mean") for kind, section in SECTIONS.items() for name, one in found[section].items()
    ]
