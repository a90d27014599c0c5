"""The ledger of a stage: which items failed, and why.

A bad item never stops a stage and never vanishes: it is recorded here, written to `failures/STAGE.csv`, counted in the
summary, and fails the stage only when there are more than the user allows.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import DataError, SettingError, TooManyFailures
from stages.tables import write_csv

COLUMNS = ("sample_id", "reason", "detail")
_ALLOWANCE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(%?)\s*$")


@dataclass(frozen=True)
class Allowance:
    """How many failures a stage tolerates: a count, or a percentage of the stage's items."""

    value: float
    is_percent: bool

    @classmethod
    def parse(cls, text: str | int | float) -> Allowance:
        """Read `"5%"`, `"12"` or `12`.

        Raises:
            SettingError: for anything else, or a percentage over 100.
        """
        match = _ALLOWANCE.match(str(text))
        if match is None or (match[2] and float(match[1]) > 100):
            raise SettingError(f"max_failures is {text!r}: give a count (12) or a percentage from 0% to 100% (5%)")
        return cls(float(match[1]), bool(match[2]))

    def allows(self, failed: int, total: int) -> bool:
        """Whether `failed` of `total` items is within the allowance."""
        limit = self.value * total / 100 if self.is_percent else self.value
        return failed <= limit + 1e-9  # 0.57 * 10000 / 100 is a little under 57

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.value:.10f}".rstrip("0").rstrip(".") + ("%" if self.is_percent else "")


@dataclass
class Ledger:
    """The failures of one run of one stage: sample_id -> (reason, detail), the first reason kept."""

    stage: str
    entries: dict[str, tuple[str, str]] = field(default_factory=dict)

    def record(self, sample_id: str, reason: str, detail: str = "") -> None:
        """Note that an item failed. White space in `detail` becomes single spaces: a row stays a line.

        What no text file can hold in `detail` (NUL, bytes of a name that is not UTF-8) is written as an escape.
        """
        line = " ".join(detail.split()).replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
        self.entries.setdefault(sample_id, (reason, line))

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self.entries

    def reasons(self) -> dict[str, int]:
        """How often each reason occurs, the most frequent first."""
        counts: dict[str, int] = {}
        for reason, _ in self.entries.values():
            counts[reason] = counts.get(reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def write(self, path: Path) -> None:
        """Write the ledger as CSV, sorted by sample_id (an empty ledger is a file with a header)."""
        rows = ((sample_id, reason, detail) for sample_id, (reason, detail) in sorted(self.entries.items()))
        write_csv(path, COLUMNS, rows)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read what `write` wrote. A missing file reads as an empty ledger.

        Raises:
            DataError: the file is not a ledger.
        """
        ledger = cls(path.stem)
        if not path.exists():
            return ledger
        try:
            with open(path, newline="", encoding="utf-8") as handle:
                header, *rows = csv.reader(handle, strict=True)
            if tuple(header) != COLUMNS:
                raise ValueError(f"its columns are {','.join(header)}")
            for sample_id, reason, detail in rows:
                ledger.record(sample_id, reason, detail)
        except (ValueError, csv.Error) as error:
            raise DataError(
                f"{path} is not a ledger of failures ({error}); run the stage that writes it again"
            ) from None
        return ledger

    def enforce(self, allowance: Allowance, total: int, place: Path | None = None) -> None:
        """Stop the stage when more items failed than allowed.

        `place` is where the ledger was written; None: artifacts/failures/STAGE.csv of the project.

        Raises:
            TooManyFailures: names the count, the reasons, the ledger and the setting.
        """
        if allowance.allows(len(self), total):
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons().items())
        place = place or Path("artifacts/failures") / f"{self.stage}.csv"
        raise TooManyFailures(
            f"{self.stage}: {len(self)} of {total} items failed ({reasons}), max_failures is {allowance}; "
            f"see {place}, mend or remove them, or raise max_failures"
        )
