"""One function per stage: read the project's settings, call the stage, write its files, say what happened.

Each returns the lines it has to say. The stages compute; the commands print.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.finetuning import finetune
from pipeline.project import Project
from pipeline.saying import Lines, close
from pipeline.timings import of_role, save_timings, time_line
from stages.blocks import BlockRow, Counts, write_block_rows
from stages.errors import DataError, SettingError
from stages.ledger import Ledger
from stages.tables import write_csv
from stages.timing import Spent, Timings

if TYPE_CHECKING:
    from stages.extract.plan import RolePlan
    from stages.index.manifest import Manifest
    from stages.index.summary import IndexSummary
    from stages.spread import Spread
    from stages.train.run import Inputs, TrainedHead


def index(project: Project, allowance: str | None = None) -> Lines:
    """Corpus -> manifest.csv, and the keys of the blocks that later stages write (keys/)."""
    manifest, summary, ledger, total = indexed(project)
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items() if count)
    lines = [f"index: {summary.samples} samples ({splits}), {len(manifest.classes)} classes"]
    for label, counts in summary.classes.items():
        lines.append(f"  {label}: " + ", ".join(f"{split} {count}" for split, count in counts.items() if count))
    if summary.unlabelled:
        lines.append(f"  without a label (predicted, not scored): {summary.unlabelled}")
    lines += _data_sets(summary)
    if summary.duplicates:
        lines.append(f"  same bytes as another sample: {summary.duplicates}")
    lines += [f"  warning: {warning}" for warning in summary.warnings]
    return lines + close(project, ledger, total, allowance)


def indexed(project: Project) -> tuple[Manifest, IndexSummary, Ledger, int]:
    """Write manifest.csv and keys/; the manifest, its summary with all warnings, and what could not be used of how many
    items, which `close` writes."""
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
    judged = project.params.evaluate.split
    if not summary.splits.get(judged):
        summary.warnings.append(f"no samples in {judged}, which evaluate scores; add samples, or set evaluate.split")
    return manifest, summary, ledger, total


def _data_sets(summary: IndexSummary) -> Lines:
    """A line for each data set, where there are several or a map leaves samples out."""
    if len(summary.sets) == 1 and not any(one.left_out for one in summary.sets.values()):
        return []
    lines = []
    for place, one in summary.sets.items():
        counts = [", ".join(f"{name} {count}" for name, count in of.items()) for of in (one.splits, one.labels)]
        parts = [f"{one.samples} samples ({counts[0]})", *filter(None, counts[1:])]
        parts += [f"without a label {one.unlabelled}"] if one.unlabelled else []
        if one.left_out:
            named = ", ".join(f"{label} {count}" for label, count in one.left_out.items())
            parts.append(f"left out by its labels: {sum(one.left_out.values())} ({named})")
        lines.append(f"  {place}: {'; '.join(parts)}")
    return lines


def detect(project: Project, allowance: str | None = None, spread: Spread | None = None) -> Lines:
    """Photos, clips -> detections.csv and blocks/detect.csv; `spread` is where it computes, None: in this process."""
    from stages.detect.run import run
    from stages.detect.table import write_table

    ledger, timings, start = Ledger("detect"), Timings(), time.monotonic()
    settings, manifest = project.params.detect, project.manifest
    detections, rows, counts = run(manifest, project.images_root, project.store, settings, ledger, spread, timings)
    write_table(project.artifacts / "detections.csv", detections)
    faces = [len(detections.faces(sample_id)) for sample_id in detections.items]
    clips = sum(map(len, detections.times.values()))
    unit = "photos and clips" if detections.times else "photos"
    lines = _done(project, "detect", unit, rows, counts, start, timings)
    frames = f" ({len(detections.times)} clips, {clips} frames looked at)" if detections.times else ""
    lines.append(f"  {sum(faces)} faces; {faces.count(0)} {unit} without a face{frames}")
    return lines + close(project, ledger, counts.total, allowance)


def align(project: Project, allowance: str | None = None) -> Lines:
    """Faces and persons -> crops, for the templates that the project's backbones and heads want."""
    from pipeline.crops import templates_of
    from stages.align.run import run
    from stages.detect.run import read

    ledger, timings, start = Ledger("align"), Timings(), time.monotonic()
    settings, store = project.params, project.store
    detections = read(project.manifest, store, settings.detect)
    templates = templates_of(project)
    source = settings.detect.faces
    rows, counts = run(project.manifest, project.images_root, store, detections, templates, source, ledger, timings)
    unit = "photos and clips" if detections.times else "photos"
    lines = _done(project, "align", unit, rows, counts, start, timings)
    lines.append(f"  templates: {', '.join(templates) or 'none wanted'}")
    return lines + close(project, ledger, counts.total, allowance)


def extract(
    project: Project, roles: Sequence[str] = (), allowance: str | None = None, spread: Spread | None = None
) -> Lines:
    """Crops, photos and clips -> features of these roles, in one pass; of all when none is named. A role with folds is
    all of them. `spread`: as `detect`."""
    from pipeline.plans import plan_of
    from stages.detect.run import read
    from stages.extract.run import run
    from stages.extract.views import names as view_names

    settings = project.params
    known = settings.extract.stages
    if unknown := [name for name in roles if name not in known]:
        raise SettingError(f"extract.backbones has no {unknown[0]!r}: it has {', '.join(known)}")
    stages = {name: known[name] for name in roles} or known
    if not (names := [role for of in stages.values() for role in of]):
        return []
    start, timings = time.monotonic(), Timings()
    of_stage = {name: Ledger(f"extract/{name}") for name in stages}
    ledgers = {role: of_stage[name] for name, of in stages.items() for role in of}
    detections = read(project.manifest, project.store, settings.detect)
    plans = [plan_of(project, role, detections.key) for role in names]
    results = run(
        project.manifest,
        project.images_root,
        project.store,
        detections,
        plans,
        settings.extract,
        project.weights_folder,
        ledgers,
        spread,
        timings,
    )
    wall_s = time.monotonic() - start
    for name, of in stages.items():  # of all roles, before one of them is said to have failed too often
        rows = [row for role in of for row in results[role].rows]
        write_block_rows(project.artifacts / "blocks" / "extract" / f"{name}.csv", rows)
        of_stage[name].write(project.failures(f"extract/{name}"))
    for role, result in results.items():
        if result.counts.computed:
            save_timings(project, f"extract/{role}", of_role(timings, role), wall_s)
    views = len(view_names(settings.extract.views)) > 1
    lines: Lines = []
    for plan in plans:
        counts = results[plan.role].counts
        pictures = "photos and frames" if detections.times else "photos"
        unit = {"face": "face groups", "person": "persons"}.get(plan.level, pictures)
        unit = f"views of {unit}" if views else unit
        lines += _extracted(plan, unit, counts, timings.spent.get(f"forward/{plan.role}", Spent()))
    for name, of in stages.items():
        lines += close(project, of_stage[name], results[of[0]].counts.total, allowance)
    return lines + ([time_line(timings, wall_s)] if any(one.counts.computed for one in results.values()) else [])


def _extracted(plan: RolePlan, unit: str, counts: Counts, forward: Spent) -> Lines:
    """What became of a role, and what its network took: the rest of the time is that of all roles."""
    said = _counted(f"extract/{plan.role}", unit, counts)
    if counts.computed:
        said += f"; forward {forward.seconds:.1f} s" + (f", {forward.rate:.1f} a second" if forward.rate else "")
    if not plan.stands_in_for:
        return [said]
    return [said, f"  warning: {plan.spec.name} stands in for {plan.stands_in_for}, whose weights are not here"]


def train(
    project: Project,
    allowance: str | None = None,
    processes: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Lines:
    """Features -> trained heads, their predictions, attention and model folders."""
    from stages.heads.shares import no_class
    from stages.train.run import LEFT_OUT, run

    ledger = Ledger("train")
    start = time.monotonic()
    settings = project.params
    judged = settings.evaluate.split
    trained = run(train_inputs(project), settings.train, project.artifacts, ledger, judged, processes, say)
    lines = [f"train: {len(trained)} heads in {time.monotonic() - start:.1f} s", *_several_unused(project)]
    for one in trained:
        shown = ", ".join(filter(None, (_accuracy(one, split) for split in ("train", LEFT_OUT, "val"))))
        kept = f", weights of epoch {one.epoch}" if one.epoch is not None else ""
        lines.append(f"  {one.name}: loss {one.loss:.4f}{kept}" + (f"; accuracy {shown}" if shown else ""))
    if any(head.trained_on_shares for head in settings.train.heads.values()):
        names = no_class((s for s in project.manifest if s.split == "train"), project.manifest.classes)
        lines += [f"  shares that do not count, of what is no class: {', '.join(names)}"] if names else []
    chosen = {one.head: one.choice for one in trained if one.choice is not None}
    lines += [f"  {name}: {choice.said}" for name, choice in chosen.items()]
    return lines + close(project, ledger, len(project.manifest.samples), allowance)


def _several_unused(project: Project) -> Lines:
    """A warning where samples of several labels train nothing, which a table of accuracies would not show."""
    labelled = [len(one.labels) for one in project.manifest if one.split == "train" and one.labels]
    several = sum(count > 1 for count in labelled)
    single = [name for name, head in project.params.train.heads.items() if not head.loss.several]
    if not several or not single:
        return []
    return [
        f"  warning: {several} of {len(labelled)} training samples have several labels and train nothing in "
        f"{', '.join(single)}: set loss: {{kind: multi_label}} there"
    ]


def _accuracy(head: TrainedHead, split: str) -> str:
    """A head's accuracy on a split, and what was left out of it; empty where the split has no labelled sample."""
    value = f"{split} {head.accuracy[split]:.3f}" if split in head.accuracy else ""
    if split not in head.left_out:
        return value
    count, total = head.left_out[split]
    if not value:
        return f"{split} not counted (a fine-tune has seen all {total} samples)"
    return f"{value} (of {total - count} of {total} samples: a fine-tune has seen the others)"


def train_inputs(project: Project) -> Inputs:
    """What training reads: manifest, store, detections, and every role's blocks."""
    from pipeline.plans import plan_of
    from stages.detect.run import read
    from stages.train.run import Inputs

    settings = project.params
    detections = read(project.manifest, project.store, settings.detect)
    plans = {role: plan_of(project, role, detections.key) for role in settings.extract.roles}
    manifest, store, finetunes = project.manifest, project.store, project.finetunes
    return Inputs(manifest, store, detections, plans, settings.detect, settings.extract, finetunes)


def fuse(project: Project) -> Lines:
    """Members' probabilities -> ensembles."""
    from stages.fuse.run import run

    fused = run(project.params.fuse, project.artifacts, project.params.evaluate.split)
    return [f"fuse: {len(fused)} ensembles ({', '.join(p.name for p in fused)})"]


def evaluate(project: Project) -> Lines:
    """Predictions -> metrics.json, its headlines for `dvc metrics` (scores.json), and the tables of `dvc plots`."""
    from stages.evaluate import plots
    from stages.evaluate.run import evaluate as score
    from stages.evaluate.run import headline, write_metrics
    from stages.fuse.run import require_current
    from stages.predictions import read_all
    from stages.train.choosing import read_all as read_choices
    from stages.train.overlaps import left_out_by_all

    settings = project.params.evaluate
    members = read_all(project.need("predictions", "train"))
    require_current(project.artifacts, [p for p in members if p.kind == "fused"])
    chosen = read_choices(project.artifacts / "candidates" / "heads")
    metrics = score(
        members,
        project.manifest,
        split=settings.split,
        resamples=settings.resamples,
        seed=settings.seed,
        left_out=project.params.train.overlap == "leave_out",
        untrained=left_out_by_all(project.params.train.heads),
        chosen={name: one for name, one in chosen.items() if any(p.kind == "head" and p.head == name for p in members)},
    )
    write_metrics(metrics, project.artifacts / "metrics.json")
    write_metrics(headline(metrics), project.artifacts / "scores.json")
    folder = project.artifacts / "plots"
    confusion = plots.confusion_rows(members, project.manifest, split=settings.split)
    write_csv(folder / "confusion.csv", plots.CONFUSION_COLUMNS, confusion)
    write_csv(folder / "accuracy.csv", plots.ACCURACY_COLUMNS, plots.accuracy_rows(metrics))
    write_csv(folder / "precision.csv", plots.PRECISION_COLUMNS, plots.precision_rows(metrics))
    lines = []
    for what, rows, n in (
        ("accuracy", plots.accuracy_rows(metrics), metrics["n"]),
        ("mean average precision", plots.precision_rows(metrics), metrics.get("several", metrics)["n"]),
    ):
        lines += [f"evaluate: split {settings.split}, n = {n}; {what} with 95 % intervals"] if rows else []
        for name, value, low, high in rows:
            interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
            tried = metrics.get("chosen", {}).get(name)
            of = f", best of {tried['candidates']} by {tried['by']}" if tried else ""
            lines.append(f"  {name}: {'not defined' if value is None else format(value, '.3f')}{interval}{of}")
    unfair = [metrics["note"]] if settings.split in ("train", "val") else []  # what was trained or chosen on
    return lines + [f"  warning: {warning}" for warning in unfair + metrics["warnings"]]


def report(project: Project) -> Lines:
    """Everything -> report.html."""
    from pipeline.provenance import provenance
    from stages.report.build import write_report
    from stages.report.inputs import read_inputs

    settings = project.params
    stages = [
        "index",
        "detect",
        "align",
        "finetune",
        *(f"extract/{role}" for role in sorted(settings.extract.backbones)),
        "train",
    ]
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
    "finetune": finetune,
    "train": train,
    "fuse": fuse,
    "evaluate": evaluate,
    "report": report,
}


def _done(
    project: Project, stage: str, unit: str, rows: Sequence[BlockRow], counts: Counts, start: float, timings: Timings
) -> Lines:
    write_block_rows(project.artifacts / "blocks" / f"{stage}.csv", rows)
    seconds = time.monotonic() - start
    rate = f", {counts.computed / seconds:.1f} a second" if counts.computed and seconds > 0 else ""
    lines = [f"{_counted(stage, unit, counts)}; {seconds:.1f} s{rate}"]
    if counts.computed:
        save_timings(project, stage, timings, seconds)
        lines.append(time_line(timings, seconds))
    return lines


def _counted(stage: str, unit: str, counts: Counts) -> str:
    return (
        f"{stage}: {counts.total} {unit}, {counts.computed} computed, {counts.cached} from the store, "
        f"{counts.failed} failed"
    )
