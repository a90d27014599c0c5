"""The commands of the stages: thin, each calls its step and prints what it says."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from stages.errors import SettingError
from stages.ledger import Allowance

if TYPE_CHECKING:
    from stages.spread import Spread

F = TypeVar("F", bound=Callable[..., object])


def _allowance(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Refuse a bad allowance before the stage runs, not after its hours."""
    if value is not None:
        try:
            Allowance.parse(value)
        except SettingError as error:
            raise SettingError(f"--max-failures: {error}") from None
    return value


_max_failures = click.option(
    "--max-failures",
    metavar="N|P%",
    default=None,
    callback=_allowance,
    help="How many items may fail before the stage does, as a count or a percentage. [default: params.yaml]",
)


def _workers(command: F) -> F:
    """The options of a stage whose work can be spread."""
    command = click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute in N processes of this machine, each with its share of the cores, or with one GPU.",
    )(command)
    return click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Compute on the workers of a Dask scheduler, such as tcp://HOST:8786; they see the same folders.",
    )(command)


def _spread(scheduler: str | None, workers: int | None) -> AbstractContextManager[Spread | None]:
    """Where the stage computes. Dask is imported only when it is asked for: it costs a second."""
    if scheduler is not None and workers is not None:
        raise click.UsageError("--scheduler has workers of its own: give it or --workers, not both")
    if scheduler is None and workers is None:
        return nullcontext()
    from pipeline.cluster import Cluster

    return Cluster(scheduler, workers or 1)


def _run(stage: str, folder: Path, *arguments: object) -> None:
    """Call a stage's step and print what it says. Imported here, so that `--help` loads nothing heavy."""
    from pipeline import steps
    from pipeline.project import Project

    _collect_less()
    for line in steps.STAGES[stage](Project(folder), *arguments):
        click.echo(line)


def _collect_less() -> None:
    """A stage holds a row for each of perhaps a million samples, and none of them is garbage: look less often."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@click.command()
@click.option("--check", is_flag=True, help="Then open every file, and show what the data set has as a table.")
@click.option("--json", "as_json", is_flag=True, help="With --check: print JSON in place of the table.")
@_max_failures
@click.pass_obj
def index(folder: Path, check: bool, as_json: bool, max_failures: str | None) -> None:
    """List the data set: manifest.csv.

    Reads the data root with the adapter of params.yaml, hashes each new file once, and gives samples without a split
    one. Files seen before are only looked at.

    With --check every photo and clip is then opened, and counts are shown: classes by split, values, files that cannot
    be read or are there twice, groups on several sides, boxes that leave their photo, sizes. artifacts/check/ lists
    what is wrong. The manifest is the same.

    \b
    Examples:
      kuleshov index
      kuleshov index --check
    """
    if as_json and not check:
        raise click.UsageError("--json is for --check: give both")
    if not check:
        _run("index", folder, max_failures)
        return
    from pipeline.checking import check_data
    from pipeline.project import Project

    _collect_less()
    try:
        for line in check_data(Project(folder), max_failures, as_json=as_json):
            click.echo(line)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped; a check keeps nothing half-way: run the same command again, it opens all files anew"
        ) from None


@click.command()
@_max_failures
@_workers
@click.pass_obj
def detect(folder: Path, max_failures: str | None, scheduler: str | None, workers: int | None) -> None:
    """Find faces: detections.csv.

    \b
    Example:
      kuleshov detect --max-failures 10% --workers 4
    """
    with _spread(scheduler, workers) as spread:
        _run("detect", folder, max_failures, spread)


@click.command()
@_max_failures
@click.pass_obj
def align(folder: Path, max_failures: str | None) -> None:
    """Cut aligned crops of the faces, per template, and crops of persons where a backbone or a head reads them.

    \b
    Example:
      kuleshov align
    """
    _run("align", folder, max_failures)


@click.command()
@click.argument("roles", nargs=-1)
@_max_failures
@_workers
@click.pass_obj
def extract(
    folder: Path, roles: tuple[str, ...], max_failures: str | None, scheduler: str | None, workers: int | None
) -> None:
    """Run backbones once and cache their features.

    ROLES are keys of extract.backbones in params.yaml; all of them when none is given. They share one pass: each photo
    is decoded once. What the store has costs nothing.

    \b
    Example:
      kuleshov extract effnet_lite0 expression
      kuleshov extract --scheduler tcp://head:8786
    """
    with _spread(scheduler, workers) as spread:
        _run("extract", folder, roles, max_failures, spread)


@click.command()
@click.argument("name", required=False)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    metavar="K",
    help="Train K networks, each on the training split without one of K folds. [default: params.yaml]",
)
@click.option(
    "--head",
    metavar="HEAD",
    help="Train it end to end with a head: one of train.heads, or a kind. [default: params.yaml]",
)
@_max_failures
@click.pass_obj
def finetune(folder: Path, name: str | None, folds: int | None, head: str | None, max_failures: str | None) -> None:
    """Train a backbone on the pixels of the training split.

    NAME is a key of finetune in params.yaml, which says the backbone, or a preset with a paper's values; all of them
    when none is given. Writes artifacts/finetune/NAME/ (the weights, what they have seen, loss and accuracy by step and
    epoch) and the photos' predictions. A run that was stopped goes on where it was when it is started again, and what
    is trained already is not trained again.

    With --folds, NAME.fold0 and so on are trained. Each training sample is predicted by the network that has not
    seen it; no group is both seen and held out.

    With --head, a head takes the place of the last layer: networks and head are trained together, end to end.

    \b
    Examples:
      kuleshov finetune local
      kuleshov finetune local --folds 5
      kuleshov finetune joint --head attention_c
    """
    _run("finetune", folder, name, folds, max_failures, head)


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train in N processes of one thread each. [default: one, or one for each core where that is worth it]",
)
@_max_failures
@click.pass_obj
def train(folder: Path, workers: int | None, max_failures: str | None) -> None:
    """Train the heads of params.yaml on cached features.

    Heads of one shape are trained together, whatever their learning rates, schedules and seeds. A head with a `grid` is
    the best of its candidates, by split val or by folds of split train; artifacts/candidates/heads/ has them all.

    \b
    Examples:
      kuleshov train
      kuleshov train --workers 8
    """
    try:
        _run("train", folder, max_failures, workers, lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped; training keeps nothing half-way, and what was there before stays: run the same command again, it "
            "trains all heads anew"
        ) from None


@click.command()
@click.pass_obj
def fuse(folder: Path) -> None:
    """Average heads and fine-tuned networks into the ensembles of params.yaml.

    \b
    Example:
      kuleshov fuse
    """
    _run("fuse", folder)


@click.command()
@click.pass_obj
def evaluate(folder: Path) -> None:
    """Score heads, fine-tuned networks and ensembles, with intervals: metrics.json.

    \b
    Example:
      kuleshov evaluate && dvc metrics show
    """
    _run("evaluate", folder)


@click.command()
@click.pass_obj
def report(folder: Path) -> None:
    """Write report.html, one file that opens without a network.

    \b
    Example:
      kuleshov report
    """
    _run("report", folder)
