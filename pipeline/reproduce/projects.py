"""The projects of a recipe: which settings each has, where its data sets are, its folder, and `dvc repro` in it.

Several recipes may share a project's folder. Its settings are then those that any of them needs, and what one of them
has computed or trained serves the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.params import FILE, parse
from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.merging import filled, joined, laid_over
from pipeline.reproduce.recipe import ProjectRecipe
from pipeline.reproduce.selection import Needed, needed, selected
from pipeline.reproduce.standins import stand_in_for
from pipeline.scaffold.write import DVCIGNORE, GITIGNORE, dvc, stages_file, write_files
from stages.errors import DataError, SettingError
from stages.whole import whole

SERVES = "recipes.json"
"""In a project's folder: the recipes that it serves."""

LOG = "reproduce.log"
"""In a project's folder: what its last `dvc repro` said."""

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
        settings = laid_over(one.settings, one.small.settings if small else {})
        need = needed(settings, {*wanted[project], *one.keep}, project)
        for other, names in need.elsewhere.items():
            if other not in wanted:
                raise SettingError(f"recipe {name}: project {project} starts from {other}, which is none of its own")
            wanted[other] |= names
        found[project] = (one, settings, need)
    return [Job(project, found[project][0], selected(*found[project][1:])) for project in table.projects]


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


def write_job(job: Job, name: str, roots: Mapping[str, Path], folder: Path, *, small: bool) -> Path:
    """Write a project, or what this recipe adds to one that others made.

    Args:
        name: of the recipe.
        folder: where projects are; the folder is `folder / job.name`.

    Returns:
        The project's folder.

    Raises:
        SettingError: the settings are not fit, or it was made with other data sets.
    """
    here = folder / job.name
    serves = _serves(here)
    settings = job.settings
    for other in serves:
        if other == name:
            continue
        (same,) = [one for one in jobs_of(other, small=small) if one.name == job.name]
        settings = joined(settings, same.settings)
    settings = filled(laid_over(THERE, settings), {name: str(root) for name, root in roots.items()})
    parse(settings, f"recipe {name}, project {job.name}")
    head = f"# Written by kuleshov reproduce for {', '.join(sorted({*serves, name}))}.\n"
    text = head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=110)
    if not (here / FILE).exists():
        ignored = GITIGNORE + f"/{LOG}\n"
        write_files(here, {"dvc.yaml": stages_file(), FILE: text, ".gitignore": ignored, ".dvcignore": DVCIGNORE})
    for path, content in ((here / FILE, text), (here / "dvc.yaml", stages_file())):
        with whole(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    with whole(here / SERVES) as temporary:
        temporary.write_text(json.dumps(sorted({*serves, name})) + "\n", encoding="utf-8")
    return here


def _serves(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / SERVES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [name for name in found if name in recipes.names()]


def repro(folder: Path, say: Say) -> None:
    """`dvc repro` in a project. What it says goes to `reproduce.log`; `say` hears of each stage that runs.

    Raises:
        DataError: a stage failed; says its last words, and where the others are.
    """
    last: list[str] = []
    with open(folder / LOG, "w", encoding="utf-8") as log, _started([*dvc(), "repro"], folder) as process:
        for line in process.stdout or ():
            log.write(line)
            text = line.strip()
            if text.startswith("Running stage"):
                say(f"  {text.partition(' ')[2].rstrip(':')}")
            elif text:
                last = [*last[-20:], text]
    if process.returncode:
        words = next((one for one in reversed(last) if "error" in one.casefold() and "failed to" not in one), last[-1])
        raise DataError(f"dvc repro failed in {folder}: {words}; {folder / LOG} has all that it said")


@contextmanager
def _started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    beside = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": beside + os.pathsep + os.environ.get("PATH", ""),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    try:
        yield process
        process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
