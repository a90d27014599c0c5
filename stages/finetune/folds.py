"""One fine-tune for each of K folds of the training split, so that every training sample has an answer, and features,
from a network that has not seen it, nor its group.

They are fine-tunes of their own, `NAME.fold0` to `NAME.fold(K-1)`: a role of `extract` can be of each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stages.errors import DataError
from stages.extract.settings import fold_name, unfolded
from stages.finetune import seen
from stages.finetune.answers import Answers
from stages.finetune.pixels import Source
from stages.finetune.run import HELD_OUT, Place, Result, require_there, run
from stages.finetune.settings import FinetuneSettings
from stages.index.folds import NO_FOLD, folds_of
from stages.index.manifest import Manifest, Sample


@dataclass(frozen=True)
class Folded:
    """What came of the folds.

    Attributes:
        results: of each fold.
        folds: sample_id -> its fold, or `NO_FOLD`; of the training samples.
        answers: of every sample: of a training sample by the network that did not see it, of the others by the mean of
            all networks' probabilities.
        seen: (n,) bool, of the answers' samples: whether a network that answered has seen the sample.
        further: the two of each of `settings.answers`.
    """

    results: tuple[Result, ...]
    folds: dict[str, int]
    answers: Answers
    seen: np.ndarray
    further: dict[str, tuple[Answers, np.ndarray]] = field(default_factory=dict)


def run_folds(manifest: Manifest, source: Source, settings: FinetuneSettings, place: Place, count: int) -> Folded:
    """Train a network for each fold on the training samples of the others; see `run`, also for what is raised.

    The folds are those of the whole training split, also where `leave_out` keeps a part of it from training: what is
    made in as many folds holds out the same samples.

    Raises:
        SettingError: there are too few groups.
        DataError: the fine-tune that they start from has seen the samples that are to be held out.
    """
    training = [sample for sample in manifest if sample.split == "train"]
    folds = {s.sample_id: fold for s, fold in zip(training, folds_of(training, count), strict=True)}
    results = []
    for fold in range(count):
        parted = Manifest(tuple(_held_out(sample, folds, fold) for sample in manifest))
        own = replace(place, name=fold_name(place.name, fold))
        results.append(run(parted, source, _after(settings, own, fold, count, parted), own))
    answers, has_seen = _joined(results, [one.answers for one in results], manifest.samples, folds)
    further = {
        how: _joined(results, [one.further[how] for one in results], manifest.samples, folds)
        for how in settings.answers
    }
    return Folded(tuple(results), folds, answers, has_seen, further)


def _held_out(sample: Sample, folds: dict[str, int], fold: int) -> Sample:
    return replace(sample, split=HELD_OUT) if folds.get(sample.sample_id) == fold else sample


def _after(settings: FinetuneSettings, place: Place, fold: int, count: int, parted: Manifest) -> FinetuneSettings:
    """The settings, starting from the same fold of another fine-tune where that one was made in folds as well."""
    out = [sample for sample in parted if sample.split == HELD_OUT]
    starts = {}
    for part, asked in settings.networks.items():
        of_fold, weights = place.weights_before(asked, fold), place.weights_before(asked)
        if of_fold is None or weights is None:
            continue
        if of_fold.exists():
            weights, starts[part] = of_fold, fold_name(asked.start, fold)
        require_there(weights, asked)
        if len(rows := seen.overlap(seen.read(weights), out)):
            name = weights.parent.name
            raise DataError(
                f"fine-tune {name}, from which {place.name} would start, has seen {len(rows)} of the {len(out)} "
                f"samples that are held out (first {out[rows[0]].sample_id}): make it in the same folds, "
                f"kuleshov finetune {unfolded(name)} --folds {count}"
            )
    return settings.after(starts)


def _joined(
    results: Sequence[Result], said: Sequence[Answers], samples: Sequence[Sample], folds: dict[str, int]
) -> tuple[Answers, np.ndarray]:
    """The answers of all samples, and who answered after having seen the sample.

    Args:
        said: of each result, its answers in one way.
    """
    by_id = [{sample.sample_id: row for row, sample in enumerate(one.samples)} for one in said]
    everyone = sorted(samples, key=lambda sample: sample.sample_id)
    has_seen = [seen.mask(result.seen, everyone) for result in results]
    probabilities = np.zeros((len(everyone), said[0].probabilities.shape[1]))
    count, known = np.zeros(len(everyone), np.int64), np.zeros(len(everyone), bool)
    for row, sample in enumerate(everyone):
        fold = folds.get(sample.sample_id, NO_FOLD)
        for at, one in enumerate(said):
            place = by_id[at].get(sample.sample_id)
            if fold in (at, NO_FOLD) and place is not None and one.answered[place]:
                probabilities[row] += one.probabilities[place]
                count[row] += 1
                known[row] |= has_seen[at][row]
    probabilities /= np.maximum(count, 1)[:, None]
    return Answers(tuple(everyone), probabilities, count > 0), known
