"""What the report is made of, and reading it from a project's artifacts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.errors import DataError, MissingInputError, SettingError
from stages.index.manifest import Manifest
from stages.ledger import Ledger
from stages.predictions import Predictions, read_all
from stages.report import several
from stages.report.words import trained

Row = Mapping[str, str]
MAX_GALLERY = 200


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """Everything a report shows.

    Attributes:
        metrics: what `stages.evaluate.run.evaluate` returned.
        predictions: the members it scored.
        manifest: the samples.
        images_root: what relative paths in the manifest are relative to.
        detections: rows of detections.csv (strings; px of the upright original).
        attention: {member: rows of attention/heads/ or attention/fused/MEMBER.csv} (weights in [0, 1]).
        failures: {stage: its ledger}, in the order to be shown.
        provenance: {what: value}; a value may be text, a number, a list or a mapping of such.
        title: of the page.
        gallery_size: how many photos to show, 0 to 200; 0 puts no photo into the file.
        headline: the member named before scoring that the first sentence speaks of; the first ensemble by name, or
            else the first head, or else the first fine-tuned network, when None. Those that answer with several labels
            come after all others.

    Raises:
        SettingError: gallery_size out of range, or a headline that was not scored.
    """

    metrics: Mapping[str, Any]
    predictions: Sequence[Predictions]
    manifest: Manifest
    images_root: Path
    detections: Sequence[Row] = ()
    attention: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    failures: Mapping[str, Ledger] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    title: str = "Emotion recognition: results"
    gallery_size: int = 24
    headline: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gallery_size <= MAX_GALLERY:
            raise SettingError(f"gallery_size is {self.gallery_size}: give 0 to {MAX_GALLERY}")
        members = [*self.metrics["fused"], *trained(self.metrics), *several.names(self.metrics)]
        if self.headline is not None and self.headline not in members:
            raise SettingError(f"headline {self.headline!r} was not scored; choose one of {', '.join(members)}")

    @property
    def member(self) -> str | None:
        """Whom the first sentence speaks of: an ensemble, head or fine-tune; None when there is no member."""
        members = [*self.metrics["fused"], *trained(self.metrics), *several.names(self.metrics)]
        return self.headline or next(iter(members), None)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file (UTF-8, with a header); a file that is not there has none."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def read_inputs(
    artifacts: Path,
    images_root: Path,
    *,
    stages: Sequence[str] = ("index", "detect", "align", "extract", "train", "fuse"),
    provenance: Mapping[str, object] | None = None,
    title: str = "Emotion recognition: results",
    gallery_size: int = 24,
    headline: str | None = None,
) -> ReportInputs:
    """Gather the inputs from the files that the stages wrote under `artifacts`.

    Args:
        artifacts: the folder of metrics.json, manifest.csv and so on.
        images_root: what relative paths in the manifest are relative to.
        stages: the order in which failures are shown; stages without a ledger are left out.
        provenance: see `ReportInputs`, as the rest.
        title: of the page.
        gallery_size: photos to show.
        headline: the member to speak of.

    Raises:
        MissingInputError: no metrics.json, predictions or manifest; names the command.
        DataError: one of them is damaged.
        SettingError: as `ReportInputs`.
    """
    path = artifacts / "metrics.json"
    if not path.is_file():
        raise MissingInputError(f"{path} is not there: run `kuleshov evaluate` first")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); run `kuleshov evaluate` again") from error
    ledgers = {stage: artifacts / "failures" / f"{stage}.csv" for stage in stages}
    return ReportInputs(
        metrics=metrics,
        predictions=read_all(artifacts / "predictions"),
        manifest=Manifest.read(artifacts / "manifest.csv"),
        images_root=images_root,
        detections=read_rows(artifacts / "detections.csv"),
        attention={one.stem: read_rows(one) for one in sorted((artifacts / "attention").glob("*/*.csv"))},
        failures={stage: Ledger.read(one) for stage, one in ledgers.items() if one.exists()},
        provenance=provenance or {},
        title=title,
        gallery_size=gallery_size,
        headline=headline,
    )
