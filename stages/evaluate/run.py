"""evaluate: predictions -> metrics.json.

`metrics.json` holds what `json.dumps(..., allow_nan=False)` takes; fractions in [0, 1], None where not defined:

- `split`, `note` (what was chosen on it), `warnings`, `interval` (how intervals came about), `classes`,
  `classes_without_training`;
- `n` scored samples, `n_unscored` (no label or several), `n_failed` (no member has an answer);
- `baseline`: `class`, `n_train` and the scores of "always the largest class of train";
- `heads` {HEAD: `accuracy`, `balanced_accuracy`, `macro_f1` {`mean`, `sd`, `n_seeds`} (sd over seeds, None for
  one seed; accuracy has `low`, `high`, `n` too: the interval of the mean over seeds), `confusion` (summed over
  seeds), `n`, `n_missing`, `over_baseline`, `seeds` {SEED: scores}}, on the samples that every seed has;
- `finetuned` {NAME: the same}, of fine-tuned networks;
- `fused` {NAME: scores, `n_missing`, `over_baseline`} (paired difference to the baseline's accuracy);
- `subsets` {SUBSET: `n`, `baseline`, `heads` {HEAD: estimate of the mean over seeds}, `finetuned` {NAME: the same},
  `fused` {NAME: estimate}};
- `chosen` {HEAD: `candidates`, `by`, `n`, `values`}, only where heads were chosen: of how many, by what, of how many
  samples, and what the best one sets;
- `several`, only where members answer with several labels: those members, see `stages.evaluate.several`. They are in no
  other section. Where there are no others, nothing is known in the rest: `n` is 0, `baseline` of no class.

Scores are those of `statistics.scores`, confusion rows and columns in the order of `classes`.
"""

from __future__ import annotations

import json
import statistics as plain
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import DataError, SettingError
from stages.evaluate import several
from stages.evaluate.scoring import Answers, Frame, answers, frame, interval_note, leaks, warnings
from stages.evaluate.statistics import RESAMPLES, Bootstrap, Estimate, Ints, difference, mean_correct, rounded, scores
from stages.index.manifest import Manifest
from stages.predictions import Kind, Predictions
from stages.train.choosing import Chosen
from stages.whole import whole

TRAINED = ("heads", "finetuned")
"""The sections of metrics whose members have seeds."""

_USED = {
    "train": "Split 'train' is what the heads were trained on: these scores are not an estimate of anything else.",
    "val": "Split 'val' is there to choose settings by: where it did, these scores flatter.",
}


def evaluate(
    predictions: Sequence[Predictions],
    manifest: Manifest,
    *,
    split: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    chosen: Mapping[str, Chosen] | None = None,
    left_out: bool = False,
    untrained: Collection[str] = (),
) -> dict[str, Any]:
    """Score every member on one split.

    Args:
        predictions: heads and fine-tuned networks (any seeds) and ensembles, of one list of classes, that answer with
            one label or with several.
        manifest: gives labels, groups, subsets and the largest class of train.
        split: what is scored; samples with no label or several are left out and counted, for members that answer
            with several labels those with none.
        resamples: bootstrap draws, 1 or more.
        seed: of the bootstrap.
        chosen: head -> how it was chosen among candidates; None: nothing was.
        left_out: heads were not trained on samples that share a group or a file with the split.
        untrained: subsets that no head was trained on: what these share with the split flatters nobody.

    Returns:
        The metrics as said at the top of this file.

    Raises:
        SettingError: resamples or seed out of range.
        MissingInputError: no predictions.
        DataError: a split that is not there (names those present), predictions that do not belong together or to
            this manifest, a member whose fine-tuned weights have seen samples of the split, or a head that was chosen
            by it.
    """
    if resamples < 1 or seed < 0:
        raise SettingError(f"resamples is {resamples} and seed {seed}: give at least 1 and at least 0")
    members, others = ([p for p in predictions if p.several is many] for many in (False, True))
    table = frame(predictions, manifest, split)
    table = table if members else table.without_samples()
    every = {(p.kind, p.name): answers(p, table) for p in members}
    heads, finetuned = (_by_head(members, every, kind) for kind in ("head", "finetuned"))
    fused = {p.name: every[p.kind, p.name] for p in sorted(members, key=lambda p: p.name) if p.kind == "fused"}
    boot = table.bootstrap(resamples, seed)
    answered = {int(row) for member in every.values() for row in member.rows}
    said = [] if left_out else leaks(manifest, split, untrained)
    said += warnings(table) + _unanswered(table, heads, finetuned, fused) if members else []
    found: dict[str, Any] = {
        "split": split,
        "note": _USED.get(split, f"Scored on split {split!r}. Nothing was trained, chosen or fitted on it."),
        "warnings": said,
        "interval": interval_note(table.units, table.unit, resamples, seed),
        "n": len(table.ids),
        "n_unscored": table.n_unscored,
        "n_failed": len(table.ids) - len(answered),
        "classes": list(table.classes),
        "classes_without_training": list(table.without_training),
        "baseline": _baseline(table, boot),
        "heads": {name: _head(table, members, boot) for name, members in heads.items()},
        "finetuned": {name: _head(table, members, boot) for name, members in finetuned.items()},
        "fused": {name: _fused(table, member, boot) for name, member in fused.items()},
        "subsets": _subsets(table, {"heads": heads, "finetuned": finetuned}, fused, boot),
    }
    if tried := {name: one for name, one in (chosen or {}).items() if one.candidates > 1}:
        require_not_chosen_by(tried, split)
        found["chosen"] = {name: asdict(one) for name, one in tried.items()}
    if others:
        found["several"], more = several.section(others, manifest, split=split, resamples=resamples, seed=seed)
        said += [text for text in more if text not in said]
    return found


def require_not_chosen_by(chosen: Mapping[str, Chosen], split: str) -> None:
    """Refuse heads whose settings were chosen by the split that is scored.

    Raises:
        DataError: names the first.
    """
    for name, one in chosen.items():
        if one.by.endswith(f"split {split}") and " folds of " not in one.by:
            raise DataError(
                f"head {name} is the best of {one.candidates} candidates by {one.by}: its score there flatters; set "
                "evaluate.split to another split, or train.choose.by to folds, and run kuleshov train"
            )


def _unanswered(
    table: Frame,
    heads: Mapping[str, Mapping[int, Answers]],
    finetuned: Mapping[str, Mapping[int, Answers]],
    fused: Mapping[str, Answers],
) -> list[str]:
    """That members are scored on fewer samples than the baseline is."""
    members = [*fused.values(), *(one for some in (*heads.values(), *finetuned.values()) for one in some.values())]
    lacking = len(table.ids) - min((len(member.rows) for member in members), default=len(table.ids))
    if not lacking:
        return []
    who = "heads and fine-tunes" if finetuned else "heads"
    return [f"{lacking} of {len(table.ids)} samples lack an answer: {who} are scored without them, the baseline with"]


def _by_head(
    predictions: Sequence[Predictions], every: dict[tuple[str, str], Answers], kind: Kind
) -> dict[str, dict[int, Answers]]:
    """Head or fine-tune -> seed -> answers, each on the samples that every seed of it has."""
    heads: dict[str, dict[int, Answers]] = {}
    for p in sorted(predictions, key=lambda p: (p.head, p.seed or 0)):
        if p.kind == kind:
            heads.setdefault(p.head, {})[p.seed or 0] = every[p.kind, p.name]
    for members in heads.values():
        common = set.intersection(*({int(row) for row in member.rows} for member in members.values()))
        for seed, member in members.items():
            keep = np.array([int(row) in common for row in member.rows], dtype=np.bool_)
            members[seed] = Answers(member.rows[keep], member.predicted[keep])
    return heads


def _scores(table: Frame, member: Answers, boot: Bootstrap) -> dict[str, Any]:
    return scores(table.actual[member.rows], member.predicted, table.classes, boot.take(member.rows))


def _baseline(table: Frame, boot: Bootstrap) -> dict[str, Any]:
    """Always the largest class of train; nothing known when train has no labelled sample."""
    rows = np.arange(len(table.ids) if table.largest else 0)
    predicted = table.baseline if table.largest else rows
    found = _scores(table, Answers(rows, predicted), boot)
    kept = {key: found[key] for key in ("accuracy", "balanced_accuracy", "macro_f1")}
    return {"class": table.largest or None, "n_train": table.n_train, **kept}


def _fused(table: Frame, member: Answers, boot: Bootstrap) -> dict[str, Any]:
    missing = len(table.ids) - len(member.rows)
    gain = _over_baseline(table, {0: member}, boot)
    return {**_scores(table, member, boot), "n_missing": missing, "over_baseline": gain}


def _over_baseline(table: Frame, members: dict[int, Answers], boot: Bootstrap) -> Estimate:
    rows, hits = _hits(table, members)
    if not table.largest:
        return {"value": None, "low": None, "high": None, "n": len(rows)}
    return difference(hits, len(members), (table.baseline == table.actual)[rows], boot.take(rows))


def _head(table: Frame, members: dict[int, Answers], boot: Bootstrap) -> dict[str, Any]:
    seeds = {str(seed): _scores(table, member, boot) for seed, member in members.items()}
    rows = next(iter(members.values())).rows
    found: dict[str, Any] = {}
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        values = [one[name]["value"] for one in seeds.values() if one[name]["value"] is not None]
        found[name] = {
            "mean": rounded(plain.fmean(values)) if values else None,
            "sd": rounded(plain.stdev(values)) if len(values) > 1 else None,
            "n_seeds": len(members),
        }
    whole = _mean_over_seeds(table, members, np.ones(len(table.ids), dtype=np.bool_), boot)
    found["accuracy"].update(mean=whole["value"], low=whole["low"], high=whole["high"], n=whole["n"])
    found["confusion"] = np.sum([one["confusion"] for one in seeds.values()], axis=0).tolist()
    found["over_baseline"] = _over_baseline(table, members, boot)
    return {**found, "n": len(rows), "n_missing": len(table.ids) - len(rows), "seeds": seeds}


def _hits(table: Frame, members: dict[int, Answers]) -> tuple[Ints, Ints]:
    """The samples that a head's seeds answer (all the same), and on how many seeds each is right; both int64 (m,)."""
    rows = next(iter(members.values())).rows
    right = np.array([member.predicted == table.actual[rows] for member in members.values()])
    return rows, right.sum(axis=0, dtype=np.int64)


def _mean_over_seeds(table: Frame, members: dict[int, Answers], keep: NDArray[np.bool_], boot: Bootstrap) -> Estimate:
    """Accuracy of a head or fine-tune, mean over its seeds, on the scored samples where `keep`, bool (n,), is true."""
    rows, hits = _hits(table, members)
    inside = keep[rows]
    return mean_correct(hits[inside], len(members), boot.take(rows[inside]))


def _subsets(
    table: Frame,
    trained: dict[str, dict[str, dict[int, Answers]]],
    fused: dict[str, Answers],
    boot: Bootstrap,
) -> dict[str, Any]:
    """Accuracies of every member within each subset; empty when the manifest names none.

    Args:
        trained: `heads` and `finetuned`, as `_by_head` gives them.
    """
    names = sorted(set(table.subsets))
    found: dict[str, Any] = {}
    for name in names if names != [""] else []:
        keep = np.array([subset == name for subset in table.subsets], dtype=np.bool_)
        base: Estimate = {"value": None, "low": None, "high": None, "n": 0}
        if table.largest:
            base = mean_correct((table.baseline == table.actual)[keep].astype(np.int64), 1, boot.take(keep))
        found[name] = {
            "n": int(keep.sum()),
            "baseline": base,
            **{
                kind: {name: _mean_over_seeds(table, members, keep, boot) for name, members in of_kind.items()}
                for kind, of_kind in trained.items()
            },
            "fused": {one: _mean_over_seeds(table, {0: member}, keep, boot) for one, member in fused.items()},
        }
    return found


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of `evaluate` that one compares between experiments: accuracy with its interval, and macro-F1; of
    members that answer with several labels the mean average precision with its interval, and how many samples it is of.

    Heads and fine-tuned networks are given by their mean over seeds.
    """
    members = [(name, one, "value") for name, one in metrics["fused"].items()]
    members += [(name, one, "mean") for kind in TRAINED for name, one in metrics[kind].items()]
    found = metrics.get("several")
    scores: dict[str, Any] = {"n": metrics["n"] if members or not found else found["n"]}
    if members or not found:
        members.append(("baseline", metrics["baseline"], "value"))
    for name, one, key in members:
        accuracy = one["accuracy"]
        scores[name] = {
            "accuracy": accuracy[key],
            "low": accuracy["low"],
            "high": accuracy["high"],
            "macro_f1": one["macro_f1"][key],
        }
    if found:
        base = scores.pop("baseline", {})
        for name, _, one, key in several.members(found):
            mean = one["mean_average_precision"]
            scores[name] = {"mean_average_precision": mean[key], **{end: mean[end] for end in ("low", "high", "n")}}
        mean = found["baseline"]["mean_average_precision"]
        scores["baseline"] = {**base, "mean_average_precision": mean["value"]}
    return scores


def write_metrics(metrics: dict[str, Any], path: Path) -> None:
    """Write metrics as indented JSON, whole or not at all; a NaN is a ValueError, never a file."""
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
