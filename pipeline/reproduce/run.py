"""A recipe from its data sets to its table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.project import Project
from pipeline.reproduce import ahead
from pipeline.reproduce import recipe as recipes
from pipeline.reproduce.passes import Passes, counted, passes_of
from pipeline.reproduce.projects import jobs_of, notes_of, own_settings, require_kind, roots_of, write_job
from pipeline.reproduce.repro import repro
from pipeline.reproduce.table import table_of
from pipeline.reproduce.writing import lines_of, write


def run(
    name: str,
    roots: Mapping[str, Path],
    folder: Path,
    *,
    small: bool,
    say: Callable[[str], None],
    told: Sequence[str] = (),
) -> list[str]:
    """Make the projects, run them, and write `NAME.md`, `NAME.csv` and `NAME.json` into `folder`.

    Args:
        name: of the recipe.
        roots: data set -> its root; none with `small`.
        folder: where projects, stand-ins and tables go.
        small: see `kuleshov reproduce run --help`.
        say: hears what happens as it does.
        told: settings of a person's own, `PROJECT.KEY=VALUE` each, which win over the recipe's.

    Returns:
        The table, a line each.

    Raises:
        SettingError: no such recipe, a data set that is not given, settings that are not fit, a folder of trials
            without `small` or the other way.
        DataError: a data set cannot be used, or a stage failed.
        WeightsError: weights are missing.
    """
    recipe, jobs = recipes.load(name), jobs_of(name, small=small)
    own = own_settings(told, recipe)
    require_kind(folder, small=small)
    places = roots_of(jobs, roots, folder, say, small=small)
    start, passes, folders = time.monotonic(), Passes(0, 0), {}
    for job in jobs:
        folders[job.name] = write_job(job, name, places[job.name], folder, small=small, own=own.get(job.name, {}))
    ahead.require_ready(folders)
    for name_of, here in folders.items():
        say(f"{name_of}: dvc repro in {here}")
        before = counted(Project(here).store)
        repro(here, say)
        passes += passes_of(here, before, counted(Project(here).store))
    table = table_of(recipe, folders, trial=small)
    notes = [*(notes_of(recipe, jobs) if small else []), *(f"set: {one}" for one in told)]
    folder.mkdir(parents=True, exist_ok=True)
    paths = write(table, folder, name, notes)
    minutes = (time.monotonic() - start) / 60
    return [
        "",
        *lines_of(table, notes),
        "",
        f"features of {passes.needed} items; {passes.run} forward passes now, {passes.saved} saved by the store",
        f"{minutes:.1f} minutes; {', '.join(map(str, paths))}",
    ]
