"""Which blocks each stage stands for: small files that `kuleshov index` writes, so that DVC sees what no setting says.

A key changes with the settings, and with the version of an extractor, the weights and the device as well. Without these
files an upgrade of Kuleshov, or weights that were fetched, would rerun no stage.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from cache.keys import BlockSpec
from pipeline.crops import templates_of_finetunes, templates_read
from pipeline.plans import role_plans
from pipeline.project import Project
from stages.align.run import crops_block
from stages.backbones import weights
from stages.backbones.registry import get_spec
from stages.detect.clips import TIMES_SPEC
from stages.detect.corpus import SIZE_SPEC
from stages.detect.run import boxes_spec
from stages.errors import WeightsError
from stages.extract.plan import RolePlan, finetuned_weights
from stages.extract.settings import FOLDER, fold_name
from stages.finetune.settings import FinetuneSettings
from stages.tables import write_csv

UNKNOWN = "unknown"
"""The key of a stage whose weights are not here."""


def stage_keys(project: Project) -> dict[str, list[tuple[str, str]]]:
    """Stage (`detect`, `align`, `extract/ROLE`) -> `SOURCE/TAP` and key of each block it writes, sorted.

    Raises:
        SettingError: a setting names what does not exist.
    """
    settings = project.params
    stages = [f"extract/{name}" for name in settings.extract.stages]
    try:
        boxes = boxes_spec(settings.detect)
    except WeightsError:
        return {stage: [(UNKNOWN, UNKNOWN)] for stage in ("detect", "align", *stages)} | {"finetune": _starts(project)}
    plans, unknown = role_plans(project, boxes.key, of_finetunes=False)
    return {
        "detect": _rows([SIZE_SPEC, TIMES_SPEC, boxes]),
        "align": _rows(_crops(project, boxes, plans.values())),
        "finetune": _starts(project),
        **{
            f"extract/{name}": [(UNKNOWN, UNKNOWN)]
            if unknown.keys() & set(roles)
            else _rows(spec for role in roles for spec in plans[role].blocks.values())
            for name, roles in settings.extract.stages.items()
        },
    }


def _crops(project: Project, boxes: BlockSpec, plans: Iterable[RolePlan]) -> list[BlockSpec]:
    """The crops that these roles see, that backbones are trained on, and that heads read."""
    templates = {*templates_read(project, plans), *templates_of_finetunes(project)}
    return [crops_block(name, boxes.key, project.params.detect.faces) for name in templates]


def _starts(project: Project) -> list[tuple[str, str]]:
    """The weights that fine-tunes start from, the catalogue's and those of other projects, and their SHA-256."""
    names = {get_spec(name).weights for one in project.params.finetune.values() for name in one.from_catalogue}
    rows = []
    for name in sorted(names):
        try:
            rows.append((name, weights.sha256(name, project.weights_folder)))
        except WeightsError:
            rows.append((name, UNKNOWN))
    return rows + sorted({row for one in project.params.finetune.values() for row in _elsewhere(project, one)})


def _elsewhere(project: Project, settings: FinetuneSettings) -> list[tuple[str, str]]:
    """The same of other projects' fine-tunes: each file that is there, of the fine-tune itself and of its folds."""
    rows = []
    for backbone, path in settings.from_folders:
        folder, spec = project.located(path), get_spec(backbone)
        names = {path: folder.name}
        names |= {fold_name(path, fold): fold_name(folder.name, fold) for fold in range(settings.folds or 0)}
        files = {place: finetuned_weights(folder.parent, name, spec) for place, name in names.items()}
        found = [
            (f"{FOLDER}{place}/{file.name}", weights.hash_file(file)) for place, file in files.items() if file.is_file()
        ]
        rows += found or [(f"{FOLDER}{path}", UNKNOWN)]
    return rows


def write_stage_keys(project: Project, folder: Path) -> None:
    """Write `STAGE.csv` for each stage into a folder of its own."""
    keys = stage_keys(project)
    shutil.rmtree(folder, ignore_errors=True)
    for stage, rows in keys.items():
        write_csv(folder / f"{stage}.csv", ("block", "key"), rows)


def _rows(specs: Iterable[BlockSpec]) -> list[tuple[str, str]]:
    return sorted({(spec.name, spec.key) for spec in specs})
