"""Predictions on disk: what `train`, `finetune` and `fuse` write, and `fuse`, `evaluate` and `report` read.

One CSV file per member: `predictions/heads/HEAD-sSEED.csv`, `predictions/finetuned/NAME-sSEED.csv` and
`predictions/fused/NAME.csv`. The columns are `sample_id, split, label`, then one per class, in the order in which the
member answers. `label` is empty (predicted, not scored) or several joined by `;`. A member that answers with several
labels has the column `labels` in the place of `label`, and scores that need not sum to one, see `scores_of`. Samples
that fine-tuned weights behind the answers have seen are in `seen/` beside it, in a file of the same name with the
column `sample_id`, sorted; where there are none, there is no file.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stages.errors import DataError, MissingInputError
from stages.tables import write_csv

COLUMNS = ("sample_id", "split", "label")
SEVERAL_COLUMNS = ("sample_id", "split", "labels")
_TAIL = 16.0  # the logit from which on a score is no sigmoid
TOLERANCE = 1e-3
"""How far from one a row's probabilities may sum: rounding to 7 digits stays far below it, logits do not."""

Kind = Literal["head", "finetuned", "fused"]
FOLDERS: dict[str, Kind] = {"heads": "head", "finetuned": "finetuned", "fused": "fused"}
"""Folder -> what lies in it, in the order of `read_all`."""

COMMANDS: dict[Kind, str] = {"head": "kuleshov train", "finetuned": "kuleshov finetune", "fused": "kuleshov fuse"}
"""What writes them."""

WORDS: dict[Kind, str] = {"head": "head", "finetuned": "fine-tune", "fused": "ensemble"}
"""For people."""

SEEN_COLUMN = "sample_id"
_SEEN_FOLDER = "seen"
_MEMBER_NAME = re.compile(r"^(?P<head>.+)-s(?P<seed>\d+)$")


def _none_seen() -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_)


@dataclass(frozen=True, eq=False)
class Predictions:
    """The class probabilities of one trained head or fine-tuned network (one seed), or of one ensemble.

    Attributes:
        name: the file's name without `.csv`; for a head `HEAD-sSEED`, for a fine-tune `NAME-sSEED`.
        kind: `"head"`, `"finetuned"` or `"fused"`.
        head: the head's or fine-tune's name without its seed; an ensemble's own name.
        seed: the seed it was trained with (0 or more); None for an ensemble.
        sample_ids: n distinct ids.
        splits: n words, such as `train`, `val`, `test`.
        labels: n tuples; empty for an unlabelled sample.
        classes: k distinct names, the columns of `probabilities`.
        probabilities: float64 (n, k), each row non-negative and summing to 1 within `TOLERANCE`; of a member that
            answers with several labels the scores of `scores_of`, each in [0, 1].
        seen: bool (n,), which samples fine-tuned weights behind these answers were trained on or stopped by, by content
            or group: they are not held out, whatever their split. None of them where it is left out. What a head alone
            was trained on is its split `train`.
        several: whether it answers with several labels, each class by itself.

    Raises:
        DataError: for anything that is not as said above, naming the first sample concerned.
    """

    name: str
    kind: Kind
    head: str
    seed: int | None
    sample_ids: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    seen: NDArray[np.bool_] = field(default_factory=_none_seen)
    several: bool = False

    def __post_init__(self) -> None:
        if not self.seen.any():  # none is none, of however many samples
            object.__setattr__(self, "seen", np.zeros(len(self.sample_ids), np.bool_))
        problem = _shape_problem(self) or _name_problem(self) or _value_problem(self)
        if problem is not None:
            raise DataError(f"predictions {self.name!r}: {problem}; run `{COMMANDS[self.kind]}` again")

    def picked(self, mask: Sequence[bool]) -> Predictions:
        """Of some of the samples.

        Args:
            mask: n, which of them.
        """
        rows = np.flatnonzero(mask)
        return replace(
            self,
            sample_ids=tuple(self.sample_ids[row] for row in rows),
            splits=tuple(self.splits[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
            probabilities=self.probabilities[rows],
            seen=self.seen[rows],
        )

    def __len__(self) -> int:
        return len(self.sample_ids)


def _shape_problem(p: Predictions) -> str | None:
    n, k = len(p.sample_ids), len(p.classes)
    if p.probabilities.dtype != np.float64 or p.probabilities.shape != (n, k):
        return f"probabilities are {p.probabilities.dtype} {p.probabilities.shape}, expected float64 {(n, k)}"
    if len(p.splits) != n or len(p.labels) != n:
        return f"{n} sample ids, but {len(p.splits)} splits and {len(p.labels)} labels"
    if p.seen.dtype != np.bool_ or p.seen.shape != (n,):
        return f"seen is {p.seen.dtype} {p.seen.shape}, expected bool {(n,)}"
    return None


def _name_problem(p: Predictions) -> str | None:
    if not p.classes:
        return "no class column after sample_id, split, label"
    for name in p.classes:
        if not name or ";" in name:
            return f"class name {name!r} is empty or has a ';'"
    for what, names in (("class", p.classes), ("sample_id", p.sample_ids)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            return f"{what} {twice[0]!r} occurs more than once ({len(twice)} such)"
    return None


def _value_problem(p: Predictions) -> str | None:
    sums = p.probabilities.sum(axis=1)
    number = "score" if p.several else "probability"
    whole = (np.abs(sums - 1) > TOLERANCE, "has probabilities that do not sum to 1")
    for bad, what in (
        (~np.isfinite(p.probabilities).all(axis=1), f"has a {number} that is NaN or infinite"),
        ((p.probabilities < 0).any(axis=1), f"has a negative {number}"),
        ((p.probabilities > 1).any(axis=1), "has a score above 1") if p.several else whole,
    ):
        rows = np.flatnonzero(bad)
        if rows.size:
            first = rows[0]
            total = f" (sum {sums[first]:.6g})" if what == whole[1] else ""
            return f"sample {p.sample_ids[first]!r} {what}{total}, as do {rows.size - 1} more"
    return None


def scores_of(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """What a head of several labels answers: the sigmoid of each logit, which does not end at 0 and 1.

    Where the loss is `multi_label` it is the label's probability. Average precision is of the order of samples, and the
    sigmoid keeps it, where a softmax, to which the other classes belong, would not. But a sigmoid of float32 is 1 from
    a logit of 17 on and one of float64 from 37 on, and heads of few samples have such logits. So beyond 16, where it is
    1e-7 from its end, what is left falls as 1/|logit|: neighbours among float32 logits stay apart up to 1000 (but for
    those within 1e-8 of 0). `write` keeps all digits: rounded to 7, all logits above 17 would be one score.

    Args:
        logits: float32 or float64, any shape.

    Returns:
        float64 in [0, 1], the same shape.
    """
    given = np.asarray(logits, np.float64)
    left = expit(-_TAIL) * _TAIL / np.maximum(np.abs(given), _TAIL)
    return np.where(np.abs(given) <= _TAIL, expit(given), np.where(given > 0, 1 - left, left))


def split_name(name: str, kind: Kind) -> tuple[str, int | None]:
    """`gupta_c-s0` of kind `head` or `finetuned` -> (`gupta_c`, 0); an ensemble's name -> (name, None).

    Raises:
        DataError: the name of a head or fine-tune that does not end in `-sSEED`.
    """
    if kind == "fused":
        return name, None
    match = _MEMBER_NAME.match(name)
    if match is None:
        form = "HEAD-sSEED.csv, such as gupta_c-s0.csv" if kind == "head" else "NAME-sSEED.csv, such as local-s0.csv"
        raise DataError(f"predictions {name!r}: a {WORDS[kind]}'s file is named {form}")
    return match["head"], int(match["seed"])


def write(path: Path, predictions: Predictions) -> None:
    """Write predictions as CSV: equal predictions are equal bytes.

    Rows are sorted by sample_id. A probability is rounded to 7 significant digits (float32 has no more), a score of one
    of several labels is not. Both are written in the shortest form that reads back as that number. Each file appears
    whole or not at all. A process that ends in between may leave samples marked as seen that are not, and never the
    other way.
    """
    beside = seen_file(path)
    ids = sorted(np.array(predictions.sample_ids, object)[predictions.seen].tolist())
    if ids:
        write_csv(beside, (SEEN_COLUMN,), ((one,) for one in ids))
    columns = SEVERAL_COLUMNS if predictions.several else COLUMNS
    write_csv(path, (*columns, *predictions.classes), _rows(predictions))
    if not ids:
        beside.unlink(missing_ok=True)


def seen_file(path: Path) -> Path:
    """Where the seen samples of a file of predictions are."""
    return path.parent / _SEEN_FOLDER / path.name


def _rows(predictions: Predictions) -> Iterator[tuple[str, ...]]:
    for i in sorted(range(len(predictions)), key=predictions.sample_ids.__getitem__):
        row = predictions.probabilities[i].tolist()
        values = (repr((value if predictions.several else float(f"{value:.7g}")) + 0.0) for value in row)
        yield (predictions.sample_ids[i], predictions.splits[i], ";".join(predictions.labels[i]), *values)


def read(path: Path, kind: Kind | None = None) -> Predictions:
    """Read what `write` wrote.

    Args:
        path: `.../heads/HEAD-sSEED.csv`, `.../finetuned/NAME-sSEED.csv` or `.../fused/NAME.csv`.
        kind: taken from the folder's name (`heads`, `finetuned`, `fused`) when None.

    Raises:
        MissingInputError: no such file.
        DataError: a foreign or damaged file: missing columns, not a number, NaN, rows that do not sum to 1, a
            sample_id twice, a name without a seed, a seen sample that was not predicted.
    """
    if kind is None:
        kind = FOLDERS.get(path.parent.name)
    if kind is None:
        raise DataError(f"{path}: predictions lie in a folder named {', '.join(FOLDERS)}; move the file there")
    if not path.is_file():
        raise MissingInputError(f"{path} is not there: run `{COMMANDS[kind]}` first")
    head, seed = split_name(path.stem, kind)
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            classes, several, rows, values = _parse(csv.reader(handle))
        ids = tuple(row[0] for row in rows)
        return Predictions(
            name=path.stem,
            kind=kind,
            head=head,
            seed=seed,
            sample_ids=ids,
            splits=tuple(row[1] for row in rows),
            labels=tuple(tuple(part for part in row[2].split(";") if part) for row in rows),
            classes=classes,
            probabilities=np.array(values, dtype=np.float64).reshape(len(rows), len(classes)),
            seen=_read_seen(seen_file(path), ids, COMMANDS[kind]),
            several=several,
        )
    except (DataError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {error}") from error


def _read_seen(path: Path, ids: Sequence[str], command: str) -> NDArray[np.bool_]:
    """Which of the samples the file names, (n,) bool; none where there is no file."""
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            header, *rows = csv.reader(handle)
    except FileNotFoundError:
        return np.zeros(len(ids), np.bool_)
    except ValueError as error:
        raise DataError(f"{path.parent.name}/{path.name} cannot be read ({error}); run `{command}` again") from None
    names = {cell for row in rows for cell in row}
    unknown = sorted(names.difference(ids))
    if header != [SEEN_COLUMN] or unknown:
        what = f"sample {unknown[0]!r}, which was not predicted" if unknown else f"the header {','.join(header)!r}"
        raise DataError(f"{path.parent.name}/{path.name} has {what}; run `{command}` again")
    return np.fromiter((one in names for one in ids), np.bool_, len(ids))


def _parse(lines: Iterable[list[str]]) -> tuple[tuple[str, ...], bool, list[list[str]], list[list[float]]]:
    """The classes, whether several labels are answered, the text columns and the numbers of a file. Columns go by
    place: a class may be named `label`."""
    iterator = iter(lines)
    header = next(iterator, [])
    several = tuple(header[:3]) == SEVERAL_COLUMNS
    if not several and tuple(header[:3]) != COLUMNS:
        raise DataError(f"the header is {','.join(header)!r}, expected sample_id,split,label, then the classes")
    texts: list[list[str]] = []
    values: list[list[float]] = []
    for line, row in enumerate(iterator, start=2):
        if len(row) != len(header):
            raise DataError(f"row {line} has {len(row)} columns, the header {len(header)}")
        try:
            numbers = [float(cell) for cell in row[3:]]
        except ValueError as error:
            raise DataError(f"row {line} (sample {row[0]!r}): {error}") from None
        texts.append(row[:3])
        values.append(numbers)
    return tuple(header[3:]), several, texts, values


def read_all(folder: Path) -> list[Predictions]:
    """Read every file of `folder/heads`, `folder/finetuned` and `folder/fused`, in this order: heads and fine-tunes by
    name and seed, ensembles by name.

    Raises:
        MissingInputError: no folder has a file.
        DataError: as `read`.
    """
    members = [read(path) for name in FOLDERS for path in (folder / name).glob("*.csv")]
    if not members:
        raise MissingInputError(f"{folder} has no predictions: run `kuleshov train` first")
    order = list(FOLDERS.values())
    return sorted(members, key=lambda p: (order.index(p.kind), p.head, -1 if p.seed is None else p.seed))


def require_held_out(
    who: str, sample_ids: Sequence[str], splits: Sequence[str], seen: NDArray[np.bool_], split: str
) -> None:
    """Refuse what has seen samples that it is to be judged by.

    Args:
        who: what a message begins with: a member, or a fine-tune and who reads its features.
        sample_ids: n ids.
        splits: their splits.
        seen: bool (n,), which of them fine-tuned weights have seen.
        split: that `evaluate` scores.

    Raises:
        DataError: names how many of them there are, and the first.
    """
    judged = np.fromiter((one == split for one in splits), np.bool_, len(splits))
    rows = np.flatnonzero(judged & seen).tolist()
    if rows:
        first = min(sample_ids[row] for row in rows)
        raise DataError(
            f"{who} has seen {len(rows)} of the {int(judged.sum())} samples of split {split}, by content or group "
            f"(first {first}): they are not held out; fine-tune again with this split, set evaluate.split, or, where "
            "a file or group is in the training split as well (kuleshov index warns), take it out of one of them"
        )
