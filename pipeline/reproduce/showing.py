"""What a recipe runs, as text: what it compares, what it reads, and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

from pipeline.params import parse
from pipeline.reproduce import ahead
from pipeline.reproduce.merging import laid_over
from pipeline.reproduce.projects import THERE, Job, jobs_of, notes_of
from pipeline.reproduce.recipe import PAPERS, Recipe, load
from pipeline.reproduce.writing import differs_of
from stages.backbones.weights import status, weights_dir


def lines_of(name: str, *, small: bool) -> list[str]:
    """A recipe, a line each.

    Args:
        small: the stand-ins and settings of a trial, in the place of the data sets' layouts and the paper's settings.

    Raises:
        SettingError: there is no such recipe, or it is not fit.
    """
    recipe, jobs = load(name), jobs_of(name, small=small)
    return [
        PAPERS[recipe.paper],
        f"{recipe.table}: {recipe.title}",
        "",
        *_rows(recipe),
        *_listed("the paper's order:", [f"{one.higher} over {one.lower} ({one.column})" for one in recipe.pairs]),
        *_listed("what differs from the paper:", differs_of(recipe, notes_of(recipe, jobs) if small else ())),
        *(() if small else _data_sets(jobs)),
        *_weights(jobs),
        *(line for job in jobs for line in _project(job, small=small)),
    ]


def _rows(recipe: Recipe) -> Iterator[str]:
    for row in recipe.rows:
        told = []
        for column in recipe.columns:
            cell = recipe.cell(row, column)
            if not cell.empty:
                number = "-" if cell.paper is None else f"{cell.paper:g}"
                told.append(f"{column} {number}{' (quoted)' if cell.quoted else ''}")
        yield f"  {row.name}: {', '.join(told)}"


def _listed(head: str, lines: Sequence[str]) -> list[str]:
    return ["", head, *(f"  - {line}" for line in lines)] if lines else []


def _weights(jobs: Sequence[Job]) -> list[str]:
    """The weights that its networks start from, and which are not on this machine."""
    folder, names = weights_dir(), dict[str, None]()
    for job in jobs:
        settings = parse(laid_over(THERE, job.settings), f"project {job.name}")
        names |= dict.fromkeys(ahead.without_stand_in(settings))
    lines = [f"{name}{'' if status(name, folder).present else ': not here'}" for name in names]
    return _listed("weights (kuleshov weights show NAME says where they are from):", lines)


def _data_sets(jobs: Sequence[Job]) -> Iterator[str]:
    known = {name: one for job in jobs for name, one in job.data_sets.items()}
    for name, one in known.items():
        yield from ("", f"--root {name}=DIR: {one.title}", "")
        yield from (f"    {line}".rstrip() for line in one.tree.splitlines())


def _project(job: Job, *, small: bool) -> Iterator[str]:
    yield from ("", f"# {job.name}: {job.recipe.about}")
    for name, one in job.data_sets.items() if small else ():
        sizes = ", ".join(f"{key} {value}" for key, value in job.recipe.small.stand_ins.get(name, {}).items())
        yield f"# {{{name}}} is a drawn stand-in of {one.drawn}: {sizes or 'of its usual size'}"
    yield ""
    yield from yaml.safe_dump(job.settings, sort_keys=False, allow_unicode=True, width=110).splitlines()
