"""One function per stage: read the project's settings, call the stage, write its files, say what happened.

Each returns the lines it has to say. The stages compute; the commands print.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.project import Project
from stages.blocks import BlockRow, Counts, write_block_rows
from stages.errors import DataError, SettingError
from stages.ledger import Allowance, Ledger
from stages.tables import write_csv

if TYPE_CHECKING:
    from stages.spread import Spread
    from stages.train.run import Inputs

Lines = list[str]


def index(project: Project, allowance: str | None = None) -> Lines:
    """Corpus -> manifest.csv, and the keys of the blocks that later stages write (keys/)."""
    from pipeline.keys import write_stage_keys
    from stages.index.run import run

    ledger = Ledger("index")
    write_stage_keys(project, project.artifacts / "keys")
    try:
        manifest, summary, total = run(project.index_settings, contents=project.contents, ledger=ledger)
    except DataError:
        ledger.write(project.failures("index"))  # the message quotes one line of it
        raise
    manifest.write(project.artifacts / "manifest.csv")
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items() if count)
    lines = [f"index: {summary.samples} samples ({splits}), {len(manifest.classes)} classes"]
    for label, counts in summary.classes.items():
        lines.append(f"  {label}: " + ", ".join(f"{split} {count}" for split, count in counts.items() if count))
    if summary.unlabelled:
        lines.append(f"  without a label (predicted, not scored): {summary.unlabelled}")
    if summary.duplicates:
        lines.append(f"  same bytes as another sample: {summary.duplicates}")
    lines += [f"  warning: {warning}" for warning in summary.warnings]
    judged = project.params.evaluate.split
    if not summary.splits.get(judged):
        lines.append(f"  warning: no samples in {judged}, which evaluate scores; add samples, or set evaluate.split")
    return lines + _close(project, ledger, total, allowance)


def detect(project: Project, allowance: str | None = None, spread: Spread | None = None) -> Lines:
    """Photos -> detections.csv and blocks/detect.csv; `spread` is where it computes, None: in this process."""
    from stages.detect.run import run
    from stages.detect.table import write_table

    ledger = Ledger("detect")
    start = time.monotonic()
    settings, manifest = project.params.detect, project.manifest
    detections, rows, counts = run(manifest, project.images_root, project.store, settings, ledger, spread)
    write_table(project.artifacts / "detections.csv", detections)
    faces = [len(detections.faces(sample_id)) for sample_id in detections.items]
    lines = _done(project, "detect", "photos", rows, counts, start)
    lines.append(f"  {sum(faces)} faces; {faces.count(0)} photos without a face")
    return lines + _close(project, ledger, counts.total, allowance)


def align(project: Project, allowance: str | None = None) -> Lines:
    """Faces -> crops, for the templates that the project's backbones want."""
    from stages.align.run import run
    from stages.detect.run import read
    from stages.extract.plan import resolve_backbone

    ledger = Ledger("align")
    start = time.monotonic()
    settings = project.params
    detections = read(project.manifest, project.store, settings.detect)
    specs = [resolve_backbone(role, settings.extract, project.weights_folder)[0] for role in settings.extract.backbones]
    templates = sorted({spec.template for spec in specs if spec.template})
    rows, counts = run(
        project.manifest, project.images_root, project.store, detections, templates, settings.detect.faces, ledger
    )
    lines = _done(project, "align", "photos", rows, counts, start)
    lines.append(f"  templates: {', '.join(templates) or 'none wanted'}")
    return lines + _close(project, ledger, counts.total, allowance)


def extract(
    project: Project, roles: Sequence[str] = (), allowance: str | None = None, spread: Spread | None = None
) -> Lines:
    """Crops and photos -> features of these roles; of all when none is named. `spread`: as `detect`."""
    lines: Lines = []
    for role in roles or sorted(project.params.extract.backbones):
        lines += _extract_role(project, role, allowance, spread)
    return lines


def _extract_role(project: Project, role: str, allowance: str | None, spread: Spread | None) -> Lines:
    from stages.detect.run import read
    from stages.extract.plan import plan_role
    from stages.extract.run import run
    from stages.extract.views import names as view_names

    name = f"extract/{role}"
    ledger = Ledger(name)
    start = time.monotonic()
    settings = project.params
    detections = read(project.manifest, project.store, settings.detect)
    plan = plan_role(role, settings.extract, project.weights_folder, detections.key, settings.detect.faces)
    rows, counts = run(
        project.manifest,
        project.images_root,
        project.store,
        detections,
        plan,
        settings.extract,
        project.weights_folder,
        ledger,
        spread,
    )
    unit = "face groups" if plan.crops else "photos"
    if len(view_names(settings.extract.views)) > 1:
        unit = f"views of {unit}"
    lines = _done(project, name, unit, rows, counts, start)
    if plan.stands_in_for:
        lines.append(f"  warning: {plan.spec.name} stands in for {plan.stands_in_for}, whose weights are not here")
    return lines + _close(project, ledger, counts.total, allowance)


def train(project: Project, allowance: str | None = None) -> Lines:
    """Features -> trained heads, their predictions, attention and model folders."""
    from stages.train.run import run

    ledger = Ledger("train")
    start = time.monotonic()
    settings = project.params
    trained = run(train_inputs(project), settings.train, project.artifacts, ledger)
    lines = [f"train: {len(trained)} heads in {time.monotonic() - start:.1f} s"]
    for one in trained:
        shown = ", ".join(f"{split} {one.accuracy[split]:.3f}" for split in ("train", "val") if split in one.accuracy)
        lines.append(f"  {one.name}: loss {one.loss:.4f}; accuracy {shown}")
    return lines + _close(project, ledger, len(project.manifest.samples), allowance)


def train_inputs(project: Project) -> Inputs:
    """What training reads: manifest, store, detections, and every role's blocks."""
    from stages.detect.run import read
    from stages.extract.plan import plan_role
    from stages.train.run import Inputs

    settings = project.params
    detections = read(project.manifest, project.store, settings.detect)
    plans = {
        role: plan_role(role, settings.extract, project.weights_folder, detections.key, settings.detect.faces)
        for role in settings.extract.backbones
    }
    return Inputs(project.manifest, project.store, detections, plans, settings.detect, settings.extract)


def fuse(project: Project) -> Lines:
    """Members' probabilities -> ensembles."""
    from stages.fuse.run import run

    fused = run(project.params.fuse, project.artifacts)
    return [f"fuse: {len(fused)} ensembles ({', '.join(p.name for p in fused)})"]


def evaluate(project: Project) -> Lines:
    """Predictions -> metrics.json, its headlines for `dvc metrics` (scores.json), and the tables of `dvc plots`."""
    from stages.evaluate import plots
    from stages.evaluate.run import evaluate as score
    from stages.evaluate.run import headline, write_metrics
    from stages.train.predictions import read_all

    settings = project.params.evaluate
    members = read_all(project.need("predictions", "train"))
    metrics = score(members, project.manifest, split=settings.split, resamples=settings.resamples, seed=settings.seed)
    write_metrics(metrics, project.artifacts / "metrics.json")
    write_metrics(headline(metrics), project.artifacts / "scores.json")
    folder = project.artifacts / "plots"
    confusion = plots.confusion_rows(members, project.manifest, split=settings.split)
    write_csv(folder / "confusion.csv", plots.CONFUSION_COLUMNS, confusion)
    write_csv(folder / "accuracy.csv", plots.ACCURACY_COLUMNS, plots.accuracy_rows(metrics))
    lines = [f"evaluate: split {settings.split}, n = {metrics['n']}; accuracy with 95 % intervals"]
    for name, value, low, high in plots.accuracy_rows(metrics):
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        lines.append(f"  {name}: {'not defined' if value is None else format(value, '.3f')}{interval}")
    return lines + [f"  warning: {warning}" for warning in metrics["warnings"]]


def report(project: Project) -> Lines:
    """Everything -> report.html."""
    from pipeline.provenance import provenance
    from stages.report.build import write_report
    from stages.report.inputs import read_inputs

    settings = project.params
    stages = ["index", "detect", "align", *(f"extract/{role}" for role in sorted(settings.extract.backbones)), "train"]
    inputs = read_inputs(
        project.artifacts,
        project.images_root,
        stages=stages,
        provenance=provenance(project),
        title=settings.report.title,
        gallery_size=settings.report.gallery,
    )
    path = project.artifacts / "report.html"
    write_report(inputs, path)
    return [f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)"]


STAGES: dict[str, Callable[..., Lines]] = {
    "index": index,
    "detect": detect,
    "align": align,
    "extract": extract,
    "train": train,
    "fuse": fuse,
    "evaluate": evaluate,
    "report": report,
}


def _done(project: Project, stage: str, unit: str, rows: Sequence[BlockRow], counts: Counts, start: float) -> Lines:
    write_block_rows(project.artifacts / "blocks" / f"{stage}.csv", rows)
    seconds = time.monotonic() - start
    rate = f", {counts.computed / seconds:.1f} a second" if counts.computed and seconds > 0 else ""
    return [
        f"{stage}: {counts.total} {unit}, {counts.computed} computed, {counts.cached} from the store, "
        f"{counts.failed} failed; {seconds:.1f} s{rate}"
    ]


def _close(project: Project, ledger: Ledger, total: int, allowance: str | None) -> Lines:
    """Write the ledger, and fail the stage when it holds too much."""
    path = project.failures(ledger.stage)
    ledger.write(path)
    try:
        limit = Allowance.parse(allowance if allowance is not None else project.params.max_failures)
    except SettingError as error:
        raise SettingError(f"--max-failures: {error}") from None
    ledger.enforce(limit, total, path)
    if not len(ledger):
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.reasons().items())
    return [f"  {len(ledger)} of {total} failed ({reasons}); see {path}"]
