"""`kuleshov plan`: how long detect, align and extract will take, and how large their rows will be, from a few samples.

The samples go through the real stages into the project's store, so the run that follows does not compute them again.
Photos and clips are counted and timed apart, as their frames differ in size and in faces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.amounts import ALIGN, DETECT, Amount, Outlook, Role, distinct_roles
from pipeline.plans import role_plans
from pipeline.project import Project
from pipeline.timed import Timed, time_samples
from stages.detect.run import boxes_spec
from stages.errors import DataError
from stages.extract.views import names as view_names
from stages.index.manifest import MEDIA, Manifest, Sample
from stages.ledger import Ledger


@dataclass(frozen=True)
class Forecast:
    """What is left of a stage.

    Attributes:
        stage: `detect`, `align` or `extract ROLE`.
        unit: what `amount` counts, in the plural.
        amount: what is left, and of how much.
        is_exact: counted by keys alone; else some of it is expected.
        seconds: what it will take once it has started; None: no sample needed this stage, so it was not timed.
        is_compressed: the role compresses its rows, which will be smaller than said.
    """

    stage: str
    unit: str
    amount: Amount
    is_exact: bool
    seconds: float | None
    is_compressed: bool = False


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        forecasts: in the order in which the stages run.
        samples: how many were computed, to be timed.
        failed: those of them that could not be read.
        start_s: seconds until all stages had started: libraries, processes, networks.
        unplanned: role -> why nothing can be said of it.
    """

    forecasts: list[Forecast]
    samples: int
    failed: Ledger
    start_s: float
    unplanned: dict[str, str]

    @property
    def is_done(self) -> bool:
        """The store has all that these stages compute."""
        return not any(one.amount.left for one in self.forecasts)


def forecast(project: Project, count: int) -> Plan:
    """Compute up to `count` samples that the store lacks something of, and say what the rest will take.

    Where the store lacks something of photos and of clips, at least one of each is computed. With nothing lacking
    nothing is computed. Where all that is lacking cannot be read, nothing is left to do.

    Raises:
        DataError: the manifest is empty, or none of the samples could be read and there are others to compute.
        MissingInputError: there is no params.yaml or no manifest.
        SettingError, WeightsError: see `stages.detect.run.run`, `stages.extract.run.run`.
    """
    settings = project.params.detect
    if not len(project.manifest):
        raise DataError(f"{project.artifacts / 'manifest.csv'} has no samples; run kuleshov index")
    found, missing = role_plans(project, boxes_spec(settings).key)
    roles = distinct_roles(found)
    kinds = (tuple(s for s in project.manifest if s.media == medium) for medium in MEDIA)
    outlooks = [Outlook(project, Manifest(some), roles) for some in kinds if some]
    chosen = choose([outlook.undetected + outlook.unfinished for outlook in outlooks], count)
    ledger = Ledger("plan")
    timed, start_s = time_samples(project, chosen, roles, ledger)
    if tried := sum(map(len, chosen)):
        wanted = [one.manifest.samples for one in outlooks]
        if len(ledger) == tried:
            wanted = [tuple(s for s in samples if s.sample_id not in ledger) for samples in wanted]
        outlooks = [Outlook(project, Manifest(samples), roles) for samples in wanted]
        if len(ledger) == tried and any(one.undetected or one.unfinished for one in outlooks):
            sample_id, (reason, detail) = next(iter(ledger.entries.items()))
            raise DataError(
                f"none of the {tried} samples that were tried could be read ({sample_id}: {reason}: {detail}); give "
                "more --items, or run kuleshov detect, which lists all that cannot be read"
            )
    unplanned = {role: str(error) for role, error in missing.items()}
    return Plan(list(_forecasts(project, roles, outlooks, timed)), tried, ledger, start_s, unplanned)


def choose(candidates: Sequence[Sequence[Sample]], count: int) -> list[list[Sample]]:
    """Up to `count` of some lists of samples, the same for the same lists: shared between them by their lengths, at
    least one of each that is not empty, and evenly spread over each."""
    total = sum(map(len, candidates))
    chosen: list[list[Sample]] = []
    for some in candidates:
        share = min(max(round(count * len(some) / max(total, 1)), 1), len(some))
        positions = np.unique(np.linspace(0, max(len(some) - 1, 0), share).round().astype(np.int64))
        chosen.append([some[i] for i in positions.tolist()])
    return chosen


def _forecasts(
    project: Project, roles: Sequence[Role], outlooks: Sequence[Outlook], timed: Sequence[Timed]
) -> Iterator[Forecast]:
    """A line a stage: photos and clips added up."""
    knows_frames = all(outlook.knows_frames for outlook in outlooks)
    is_exact = all(outlook.is_exact for outlook in outlooks)
    for stage, unit in _units(project, roles).items():
        amounts = [outlook.amounts[stage] for outlook in outlooks]
        amount = sum(amounts, Amount())
        compressed = any(role.stage == stage and role.plan.compression != "none" for role in roles)
        seconds = _seconds(stage, amounts, timed)
        yield Forecast(stage, unit, amount, knows_frames if stage == DETECT else is_exact, seconds, compressed)


def _seconds(stage: str, amounts: Sequence[Amount], timed: Sequence[Timed]) -> float | None:
    """Of all media; one of which no sample needed the stage takes as long an item as the other."""
    known = [each for one in timed if (each := one.each(stage)) is not None]
    total = 0.0
    for amount, one in zip(amounts, timed, strict=True):
        if amount.left:
            if not known:
                return None
            total += amount.left * (one.each(stage) or max(known))
    return total


def _units(project: Project, roles: Sequence[Role]) -> Mapping[str, str]:
    """What each stage's amount counts."""
    pictures = "frames" if any(sample.media == "video" for sample in project.manifest) else "photos"
    views = "views of " if len(view_names(project.params.extract.views)) > 1 else ""
    of_level = {"face": "faces", "person": "persons", "frame": pictures}
    of_roles = {role.stage: views + of_level[role.plan.level] for role in roles}
    return {DETECT: pictures, ALIGN: "crops", **of_roles}
