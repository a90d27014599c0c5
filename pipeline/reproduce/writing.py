"""A recipe's table as text, Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.reproduce.recipe import PAPERS, Recipe
from pipeline.reproduce.table import Compared, Number, Table
from stages.evaluate.cells import Answer
from stages.tables import write_csv
from stages.whole import whole

COLUMNS = (
    *("row", "column", "paper", "quoted", "ours", "low", "high", "n", "seeds", "sd", "constant", "copy_of"),
    *("trial", "differs"),
)  # fmt: skip


TRIAL = (
    "A trial (--small): drawn stand-ins, packaged or narrow networks, few epochs. It shows that every row runs, and is "
    "no evidence for or against the paper."
)


def percent(value: float | None, *, signed: bool = False) -> str:
    """A fraction as people read it: `71.2`, or `+1.5`."""
    if value is None:
        return "-"
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def ours_text(ours: Answer | None) -> str:
    """`71.2 [66.0, 76.4] (3 seeds, sd 0.8; n 120)`."""
    if ours is None:
        return "-"
    seeds = f"{ours.seeds} seeds, sd {percent(ours.sd)}; " if ours.sd is not None else ""
    between = "" if ours.low is None else f" [{percent(ours.low)}, {percent(ours.high)}]"
    return f"{percent(ours.value)}{between} ({seeds}n {ours.n})"


def paper_text(number: Number) -> str:
    """The paper's number, and that it is one that the paper quotes."""
    if number.paper is None:
        return "-"
    return f"{number.paper:g}" + (" (quoted)" if number.quoted else "")


def lines_of(table: Table, notes: Sequence[str] = ()) -> list[str]:
    """The table for a terminal, a line each."""
    recipe = table.recipe
    lines = [f"{PAPERS[recipe.paper]}", f"{recipe.table}: {recipe.title}", *([TRIAL] if table.trial else []), ""]
    header = ("row", "column", "paper", "ours")
    rows = [(n.row, n.column, paper_text(n), ours_text(n.ours) + _flags(n)) for n in table.numbers.values()]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(3)]
    for row in [header, *rows]:
        lines.append("  ".join(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)) + f"  {row[3]}")
    if table.compared:
        lines += ["", "the paper's order, paired over samples:"]
        lines += [f"  {compared_text(one)}" for one in table.compared]
    if told := differs_of(table.recipe, notes):
        lines += ["", "what differs from the paper:", *(f"  - {one}" for one in told)]
    return lines


def compared_text(one: Compared) -> str:
    """`Attention_C over Attention_A (EVAL): paper +2.0, here +1.2 [-3.0, 5.4], undetermined`."""
    pair, ours = one.pair, one.ours
    paper = "" if one.paper is None else f"paper {one.paper:+g}, "
    between = "" if ours.low is None else f" [{percent(ours.low, signed=True)}, {percent(ours.high, signed=True)}]"
    here = f"here {percent(ours.value, signed=True)}{between}"
    return f"{pair.higher} over {pair.lower} ({pair.column}): {paper}{here}: {one.verdict}"


def differs_of(recipe: Recipe, notes: Sequence[str] = ()) -> list[str]:
    """What is not as in the paper: of all rows, of this run, then of single rows."""
    of_rows = [f"{row.name}: {line}" for row in recipe.rows for line in row.differs]
    return [*recipe.differs, *notes, *of_rows]


def _flags(number: Number) -> str:
    flags = []
    if number.ours is not None and number.ours.constant:
        flags.append("CONSTANT: the same answer to every sample")
    if number.copy_of is not None:
        flags.append(f"COPY of {number.copy_of}")
    return "".join(f"  {flag}" for flag in flags)


def markdown_of(table: Table, notes: Sequence[str] = ()) -> str:
    """The table as a page."""
    recipe = table.recipe
    columns = list(recipe.columns)
    heads = [f"{name}: {which}" for name in columns for which in ("paper", "ours")]
    lines = [f"# {recipe.table}: {recipe.title}", "", PAPERS[recipe.paper], ""]
    lines += [TRIAL, ""] if table.trial else []
    lines += [f"| row | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for row in recipe.rows:
        cells = []
        for column in columns:
            number = table.numbers.get((row.name, column))
            cells += ["", ""] if number is None else [paper_text(number), ours_text(number.ours) + _flags(number)]
        lines.append(f"| {_cell(row.name)} | {' | '.join(map(_cell, cells))} |")
    lines += ["", "Accuracies and precisions in percent, with 95 % bootstrap intervals over samples or groups."]
    if table.compared:
        lines += ["", "## The paper's order", "", *(f"- {compared_text(one)}" for one in table.compared)]
    if told := differs_of(table.recipe, notes):
        lines += ["", "## What differs", "", *(f"- {one}" for one in told)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write(table: Table, folder: Path, name: str, notes: Sequence[str] = ()) -> list[Path]:
    """Write `NAME.md`, `NAME.csv` and `NAME.json` into a folder.

    Returns:
        Their paths.
    """
    rows = {row.name: row for row in table.recipe.rows}
    records = []
    for number in table.numbers.values():
        ours = number.ours or Answer(None, None, None, 0, 0, None, False)
        differs = "; ".join(rows[number.row].differs)
        told = (ours.value, ours.low, ours.high, ours.n, ours.seeds, ours.sd, ours.constant)
        records.append(
            (number.row, number.column, number.paper, number.quoted, *told, number.copy_of, table.trial, differs)
        )
    write_csv(folder / f"{name}.csv", COLUMNS, records)
    content = {
        "recipe": name,
        "trial": table.trial,
        "paper": table.recipe.paper,
        "table": table.recipe.table,
        "numbers": [asdict(number) for number in table.numbers.values()],
        "compared": [
            {**one.pair.model_dump(), "paper": one.paper, "ours": asdict(one.ours), "verdict": one.verdict}
            for one in table.compared
        ],
        "differs": differs_of(table.recipe, notes),
    }
    texts = {"md": markdown_of(table, notes), "json": json.dumps(content, indent=2, ensure_ascii=False) + "\n"}
    for ending, text in texts.items():
        with whole(folder / f"{name}.{ending}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / f"{name}.{ending}" for ending in ("md", "csv", "json")]
