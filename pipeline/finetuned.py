"""Whether the fine-tune of a role is the one that params.yaml describes."""

from __future__ import annotations

import csv

from pipeline.project import Project
from stages.errors import SettingError
from stages.extract.settings import FOLDER, unfolded

_TRIED = ("head", "photos", "unit", "start", "keep_last")
"""What `--head` may have changed, and where a fold starts from."""


def require_as_described(project: Project, role: str) -> None:
    """Refuse a role whose fine-tune was trained with other settings than params.yaml has now, or in other folds.

    Weights that came without `training.json` are taken as they are, and so is a head that `--head` chose, and another
    project's fine-tune, whose settings are not here.

    Raises:
        SettingError: names what differs, and the command; or it goes by its folder and is of this project.
    """
    name = project.params.extract.roles[role].finetuned
    if name is None:
        return
    if name.startswith(FOLDER):
        _require_anothers(project, role, name)
        return
    base = unfolded(name)
    asked = next(one.folds for key, one in project.params.extract.backbones.items() if role in one.of_folds(key))
    command = f"run kuleshov finetune {base}" + (f" --folds {asked}" if asked else "")
    if base != name and (made := _folds(project, base)) not in (None, asked):
        raise SettingError(f"extract.backbones.{unfolded(role)}.folds is {asked}, and {base} has {made}; {command}")
    from stages.finetune.done import differs

    if said := differs(project.finetunes / name, project.params.finetune[base], _TRIED):
        raise SettingError(f"fine-tune {name} of extract.backbones.{role} is another one: {said}; {command}")


def _require_anothers(project: Project, role: str, name: str) -> None:
    """Refuse a fine-tune of this project that goes by its folder: DVC would not know that it is trained before."""
    folder = project.located(name.removeprefix(FOLDER))
    if folder.parent.resolve() == project.finetunes.resolve():
        raise SettingError(
            f"extract.backbones.{unfolded(role)}.finetuned is {unfolded(name)}, a fine-tune of this project: use "
            f"{unfolded(folder.name)}"
        )


def _folds(project: Project, name: str) -> int | None:
    """How many folds a fine-tune was made in; None: it is not known."""
    try:
        with open(project.finetunes / f"{name}.folds.csv", newline="", encoding="utf-8") as handle:
            return 1 + max(int(row["fold"]) for row in csv.DictReader(handle))
    except (OSError, ValueError, KeyError):
        return None
