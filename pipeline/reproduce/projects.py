"""The projects of a recipe: which settings each has, where its data sets are, and its folder.

Several recipes may share a project's folder. Its settings are then those that any of them needs, and what one of them
has computed or trained serves the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.params import FILE, UniqueKeyLoader, parse
from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.merging import filled, joined, laid_over
from pipeline.reproduce.recipe import ProjectRecipe, Recipe
from pipeline.reproduce.repro import LOG
from pipeline.reproduce.selection import Needed, needed, selected
from pipeline.reproduce.standins import STAND_INS, stand_in_for
from pipeline.scaffold.write import DVCIGNORE, GITIGNORE, initialised, stages_file
from stages.errors import DataError, SettingError
from stages.whole import whole

SERVES = "recipes.json"
"""In a project's folder: the recipes that it serves."""

THERE: dict[str, Any] = {
    "detect": {"faces": "found"},
    "extract": {"dtype": "float16", "views": {"flip": False, "crops": 0}, "device": "auto"},
    "finetune": {},
    "train": {},
    "fuse": {"ensembles": {}},
    "evaluate": {"split": "test"},
    "report": {"title": "Kuleshov"},
    "max_failures": "5%",
}
"""What params.yaml must have, with its defaults: DVC wants every parameter that dvc.yaml names to be there."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A project of a recipe.

    Attributes:
        name: of the project.
        recipe: its file.
        settings: those that the table needs, `{NAME}` where a data set's root belongs.
    """

    name: str
    recipe: ProjectRecipe
    settings: dict[str, Any]

    @property
    def data_sets(self) -> dict[str, recipes.DataSetNeed]:
        """Those whose root the settings name."""
        text = json.dumps(self.settings)
        return {name: one for name, one in self.recipe.data_sets.items() if f'"{{{name}}}' in text}


def jobs_of(name: str, *, small: bool) -> list[Job]:
    """The projects of a recipe with the settings that its table needs, in the order in which they are run.

    Raises:
        SettingError: there is no such recipe, or it names what its projects do not have.
    """
    table = recipes.load(name)
    members = table.members()
    found: dict[str, tuple[ProjectRecipe, dict[str, Any], Needed]] = {}
    wanted: dict[str, set[str]] = {project: set(of) for project, of in members.items()}
    for project in reversed(table.projects):
        one = recipes.load_project(project)
        settings = laid_over(one.settings, one.small.settings if small else {}, f"recipes/projects/{project}.yaml")
        need = needed(settings, {*wanted[project], *one.keep}, project)
        for other, names in need.elsewhere.items():
            if other not in table.projects[: table.projects.index(project)]:
                raise SettingError(f"recipe {name}: project {project} starts from {other}: name that before it")
            wanted[other] |= names
        found[project] = (one, settings, need)
    return [Job(project, found[project][0], selected(*found[project][1:])) for project in table.projects]


def notes_of(recipe: Recipe, jobs: list[Job]) -> list[str]:
    """What a trial has instead, a line each: of the recipe, then of its projects. What several say is there once."""
    return list(dict.fromkeys([*recipe.small, *(line for job in jobs for line in job.recipe.small.differs)]))


def roots_of(
    jobs: list[Job], given: Mapping[str, Path], folder: Path, say: Say, *, small: bool
) -> dict[str, dict[str, Path]]:
    """Project -> data set -> root: what a person gave, or stand-ins, which are drawn where they are not there yet.

    Raises:
        SettingError: a data set is not given, or one is given that no project reads, or with `small`.
        DataError: a given root is not there.
    """
    known = {name: one for job in jobs for name, one in job.data_sets.items()}
    if small:
        if given:
            raise SettingError(f"--root {next(iter(given))} and --small: a trial reads drawn stand-ins; leave one out")
        return {
            job.name: {
                name: stand_in_for(one.stand_in or one.adapter, job.recipe.small.stand_ins.get(name, {}), folder, say)
                for name, one in job.data_sets.items()
            }
            for job in jobs
        }
    if unknown := sorted(given.keys() - known.keys()):
        raise SettingError(f"--root {unknown[0]}: this recipe reads {', '.join(known)}")
    if lacking := [name for name in known if name not in given]:
        wanted = "; ".join(f"--root {name}=DIR ({known[name].title})" for name in lacking)
        raise SettingError(f"give the data sets: {wanted}. kuleshov reproduce show says how they are laid out")
    for name, root in given.items():
        if not root.exists():
            raise DataError(f"--root {name}={root}: there is no such folder")
    return {job.name: {name: given[name].absolute() for name in job.data_sets} for job in jobs}


def require_kind(folder: Path, *, small: bool) -> None:
    """Refuse a folder in which trials and runs on data sets would share projects.

    Raises:
        SettingError: the folder has projects of the other kind.
    """
    drawn = (folder / STAND_INS).is_dir()
    if not small and drawn:
        raise SettingError(f"{folder} has trials, made with --small: give another --to")
    if small and not drawn and any(folder.glob(f"*/{SERVES}")):
        raise SettingError(f"{folder} has projects made without --small: give another --to")


def own_settings(told: Sequence[str], recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Project -> settings, of `PROJECT.KEY=VALUE` with dots between keys and a value as YAML has it.

    Raises:
        SettingError: it is not of that form, the recipe has no such project, or the value is no YAML.
    """
    found: dict[str, dict[str, Any]] = {}
    for one in told:
        place, equals, value = one.partition("=")
        project, *keys = place.split(".")
        if not (equals and keys and all(keys)):
            raise SettingError(f"--set {one!r}: write PROJECT.KEY=VALUE, such as gupta2018.data.options.evaluation=500")
        if project not in recipe.projects:
            raise SettingError(f"--set {one!r}: the recipe's projects are {', '.join(recipe.projects)}")
        try:
            read: Any = yaml.load(value, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
        except yaml.YAMLError as error:
            raise SettingError(f"--set {one!r}: the value is no YAML ({' '.join(str(error).split())})") from None
        for key in reversed(keys):
            read = {key: read}
        found[project] = laid_over(found.get(project, {}), read)
    return found


def write_job(
    job: Job, name: str, roots: Mapping[str, Path], folder: Path, *, small: bool, own: Mapping[str, Any] | None = None
) -> Path:
    """Write a project, or what this recipe adds to one that others made.

    Args:
        name: of the recipe.
        roots: of the project's data sets.
        folder: where projects are; the folder is `folder / job.name`.
        own: a person's settings, laid over the others.

    Returns:
        The project's folder.

    Raises:
        SettingError: the settings are not fit, or contradict those of another recipe of the project.
    """
    here = folder / job.name
    serves = sorted({*_serves(here), name})
    settings = job.settings
    for other in serves:
        for same in [] if other == name else jobs_of(other, small=small):
            if same.name == job.name:
                settings = joined(settings, same.settings, f"recipes {name} and {other}: {job.name}")
    settings = laid_over(filled(laid_over(THERE, settings), {of: str(root) for of, root in roots.items()}), own or {})
    parse(settings, f"recipe {name}, project {job.name}")
    head = f"# Written by kuleshov reproduce for {', '.join(serves)}.\n"
    contents = {
        FILE: head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=110),
        "dvc.yaml": stages_file(),
        ".gitignore": GITIGNORE + f"/{LOG}\n",
        ".dvcignore": DVCIGNORE,
        SERVES: json.dumps(serves) + "\n",
    }
    for path, content in contents.items():
        with whole(here / path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    initialised(here)
    return here


def _serves(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / SERVES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [name for name in found if name in recipes.names()]
