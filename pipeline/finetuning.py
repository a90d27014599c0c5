"""The step of `kuleshov finetune`: one fine-tune, or all of params.yaml, each after the one that it starts from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from pipeline.head_choice import with_head
from pipeline.project import Project
from pipeline.saying import Lines, close
from stages.errors import SettingError
from stages.extract.settings import unfolded
from stages.ledger import Ledger
from stages.tables import write_csv

if TYPE_CHECKING:
    from stages.finetune.run import Result
    from stages.finetune.settings import FinetuneSettings

FOLDER = "predictions/finetuned"
CURVES = "plots/finetune"
_COLUMNS = ("finetune", "file", "sha256")
_NETWORKS = ("backbone.safetensors", "photos.safetensors")


def finetune(
    project: Project,
    name: str | None = None,
    folds: int | None = None,
    allowance: str | None = None,
    head: str | None = None,
) -> Lines:
    """Crops or photos -> trained backbones, artifacts/finetune/NAME/, and their predictions.

    Args:
        name: of `finetune` in params.yaml; None: all.
        folds: see `FinetuneSettings.folds`; None: as params.yaml says.
        head: of `train.heads`, or a kind, see `with_head`; None: as params.yaml says.
    """
    known = project.params.finetune
    if name is not None and name not in known:
        names = ", ".join(sorted(known)) or "none; add one there"
        raise SettingError(f"finetune has no {name!r} in params.yaml: it has {names}")
    if name is None and folds is not None:
        raise SettingError(f"--folds {folds} is of one fine-tune: name it, or set its folds in params.yaml")
    if name is None and head is not None:
        raise SettingError(f"--head {head} is of one fine-tune: name it, or set its head in params.yaml")
    names = _in_order(known) if name is None else [name]
    lines: Lines = []
    ledger = Ledger("finetune")
    for one in names:
        settings = known[one] if folds is None else known[one].model_copy(update={"folds": folds})
        settings = settings if head is None else with_head(one, settings, head, project.params.train.heads)
        lines += _finetune(project, one, settings, ledger)
    _write_hashes(project)
    if name is None:
        _forget_others(project)
        lines = lines or ["finetune: none in params.yaml"]
    return lines + close(project, ledger, len(project.manifest.samples) if names else 0, allowance)


def _in_order(known: Mapping[str, FinetuneSettings]) -> list[str]:
    """Each after the one it starts from."""
    graph = {
        name: [before for one in known[name].from_finetunes if (before := unfolded(one)) in known]
        for name in sorted(known)
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise SettingError(f"finetune: {' starts from '.join(error.args[1])}: no one can be first") from None


def _finetune(project: Project, name: str, settings: FinetuneSettings, ledger: Ledger) -> Lines:
    from stages.detect.run import read
    from stages.finetune.folds import run_folds
    from stages.finetune.history import EpochRow
    from stages.finetune.members import accuracy, member, seen_of
    from stages.finetune.pixels import Source
    from stages.finetune.run import Place, run
    from stages.predictions import write

    manifest, start = project.manifest, time.monotonic()
    detections = read(manifest, project.store, project.params.detect)
    classes = tuple(manifest.classes)
    source = Source(project.images_root, project.store, detections, project.params.detect.faces, classes, ledger)
    place = Place(project.finetunes, name, project.weights_folder, project.located)
    if settings.folds is None:
        results = (result := run(manifest, source, settings, place),)
        lines = _said(f"finetune {name}", result)
        said = {how: (one, seen_of(result, one)) for how, one in ({"": result.answers} | result.further).items()}
    else:
        folded = run_folds(manifest, source, settings, place, settings.folds)
        results, lines = folded.results, list[str]()
        said = {"": (folded.answers, folded.seen), **folded.further}
        for fold, result in enumerate(folded.results):
            held = sum(1 for of in folded.folds.values() if of == fold)
            lines += _said(f"finetune {name}, fold {fold} ({held} held out)", result)
        write_csv(project.finetunes / f"{name}.folds.csv", ("sample_id", "fold"), sorted(folded.folds.items()))
        lines.append(f"finetune {name}: {settings.folds} folds in {time.monotonic() - start:.1f} s")
    for how, (answers, has_seen) in said.items():
        shown = ", ".join(
            f"{split} {value:.3f} (n = {n})" for split, (value, n) in accuracy(answers, classes, has_seen).items()
        )
        lines.append(
            f"  {f'answer {how}: ' if how else ''}accuracy of samples that were not seen: {shown or 'there are none'}"
        )
    unanswered = int((~said[""][0].answered).sum())
    if unanswered:
        lines.append(f"  without a face, and so without an answer: {unanswered}")
    _forget_members(project, name)
    for how, called in settings.members(name).items():
        predictions = member(called, settings.seed, said[how][0], classes, said[how][1])
        write(project.artifacts / FOLDER / f"{predictions.name}.csv", predictions)
    for other in (project.artifacts / CURVES).glob("*.csv"):  # of folds that there were, or of none
        if unfolded(other.stem) == name:
            other.unlink()
    if settings.folds is None:
        (project.finetunes / f"{name}.folds.csv").unlink(missing_ok=True)
    for result in results:
        file = project.artifacts / CURVES / f"{result.weights.parent.name}.csv"
        write_csv(file, EpochRow._fields, result.history.epochs)
    return lines


def _said(what: str, result: Result) -> Lines:
    last = result.history.epochs[-1]
    before = f", {result.history.gone_on} of them before" if result.history.gone_on else ""
    trained = f"{last.epoch} epochs, {last.iteration} steps{before} in {result.seconds:.1f} s"
    lines = [f"{what}: {trained}" if result.trained else f"{what}: trained before ({last.epoch} epochs)"]
    lines += [f"  {said}" for said in result.started]
    rows = ", ".join(f"{split} {count}" for split, count in result.rows.items())
    left_out = "".join(f"; {count} training samples {why} left out" for why, count in result.left_out.items())
    lines.append(f"  rows: {rows}{left_out}; loss {last.loss:.4f}")
    if result.no_class:
        lines.append(f"  shares that do not count, of what is no class: {', '.join(result.no_class)}")
    if result.history.best_epoch is not None:
        lines.append(f"  the weights are those of epoch {result.history.best_epoch}, with the lowest validation loss")
    return [*lines, f"  weights: {result.weights}"]


def _write_hashes(project: Project) -> None:
    """What other stages depend on, so that DVC runs again what a changed weights file touches, and no more.

    `weights.csv` has the hash of each file; `roles/ROLE.csv` of those that a role of extract is of, and `heads.csv` of
    the heads, from which `train` may start.
    """
    from stages.backbones.weights import hash_file

    files = sorted(project.finetunes.glob("*/*.safetensors"))
    rows = [(file.parent.name, file.name, hash_file(file)) for file in files]
    write_csv(project.finetunes / "weights.csv", _COLUMNS, rows)
    write_csv(project.finetunes / "heads.csv", _COLUMNS, [row for row in rows if row[1] == "head.safetensors"])
    folder = project.finetunes / "roles"
    extract = project.params.extract
    for stage, roles in extract.stages.items():
        mine = {extract.roles[role].finetuned for role in roles}
        write_csv(folder / f"{stage}.csv", _COLUMNS, [row for row in rows if row[0] in mine and row[1] in _NETWORKS])
    for other in folder.glob("*.csv"):
        if other.stem not in extract.stages:
            other.unlink()


def _forget_members(project: Project, name: str) -> None:
    """Delete the predictions of a fine-tune, of whatever seed and way to answer. A name that begins as this one and
    goes on after a dot may be another fine-tune's."""
    known = project.params.finetune
    others = {called for one in known if one != name for called in known[one].members(one).values()}
    for path in (project.artifacts / FOLDER).rglob("*.csv"):
        called = path.stem.rpartition("-s")[0]
        if called == name or (called.startswith(f"{name}.") and called not in others):
            path.unlink()


def _forget_others(project: Project) -> None:
    """Predictions and curves of fine-tunes that params.yaml no longer has. Their weights stay: they took hours.

    DVC warns of outs that are empty, and cannot draw an empty folder: there is always something in them.
    """
    known = project.params.finetune
    members = {called for name, one in known.items() for called in one.members(name).values()}
    (project.artifacts / FOLDER / "seen").mkdir(parents=True, exist_ok=True)
    for path in (project.artifacts / FOLDER).rglob("*.csv"):
        if path.stem.rpartition("-s")[0] not in members:
            path.unlink()
    for path in (project.artifacts / CURVES).glob("*.csv"):
        if unfolded(path.stem) not in known:
            path.unlink()
    if not known:
        from stages.finetune.history import EpochRow

        write_csv(project.artifacts / CURVES / "none.csv", EpochRow._fields, ())
