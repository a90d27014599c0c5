"""Puts the tables that recipes wrote into the pages of the papers: `python -m benchmarks.paper_tables FOLDER`.

    python -m benchmarks.paper_tables FOLDER                  of `kuleshov reproduce run NAME --to FOLDER`
    python -m benchmarks.paper_tables FOLDER --pages PAGES    pages of another folder than docs/papers

A page has a place for each recipe, between the lines `<!-- table NAME -->` and `<!-- end -->`. FOLDER/NAME.md takes the
place of what is there: the table, the paper's order and what differs. So a second run changes nothing. Headings are set
one level below the section that the place is in, and the paper's name, which the page has already, is left out. Places
of recipes that FOLDER has no table of stay as they are.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.reproduce.recipe import PAPERS
from stages.errors import DataError
from stages.whole import whole

PAGES = Path(__file__).parent.parent / "docs" / "papers"
PLACE = re.compile(r"^<!-- table (?P<name>\S+) -->\n(?P<content>.*?)^<!-- end -->$", re.M | re.S)
_MARK = re.compile(r"^ *<!-- *(table|end)\b.*$", re.M)
_HEADING = re.compile(r"^(#+) ", re.M)
_FENCE = re.compile(r"^(`{3,}).*?^\1 *$", re.M | re.S)


def places(page: str) -> dict[str, str]:
    """Recipe -> what stands in its place, in the page's order.

    Raises:
        DataError: a marker is not one of a pair, or a recipe has two places.
    """
    found = list(PLACE.finditer(page))
    if len(_MARK.findall(page)) != 2 * len(found) or any(_MARK.search(one["content"]) for one in found):
        raise DataError("a marker is not one of a pair: write <!-- table NAME -->, and <!-- end --> on a line below it")
    names = [one["name"] for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{twice[0]} has two places on a page: leave one")
    return {one["name"]: one["content"] for one in found}


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with these tables in their places.

    Args:
        tables: recipe -> what `pipeline.reproduce.writing.markdown_of` made; those without a place are passed over.

    Raises:
        DataError: see `places`.
    """
    places(page)
    parts, done, level = [], 0, 0
    for place in PLACE.finditer(page):
        between = page[done : place.start()]
        headings = _HEADING.findall(_FENCE.sub("", between))
        level = len(headings[-1]) if headings else level  # the section that the place is in
        content = place["content"]
        if place["name"] in tables:
            content = f"\n{_lowered(tables[place['name']], level)}\n"
        parts += [between, f"<!-- table {place['name']} -->\n{content}<!-- end -->"]
        done = place.end()
    return "".join([*parts, page[done:]])


def _lowered(table: str, by: int) -> str:
    """A recipe's page as a section: headings `by` levels lower, without the paper's name."""
    lines = [line for line in table.strip().splitlines() if line not in PAPERS.values()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"
    return _HEADING.sub(lambda found: "#" * min(by + len(found[1]), 6) + " ", text)


def fill(folder: Path, pages: Path) -> list[str]:
    """Fill all pages of a folder from the tables of another.

    Returns:
        What was done for each place, a line each.

    Raises:
        DataError: a page's markers are not in order, or no place has a table in `folder`.
    """
    said: list[str] = []
    used = 0
    for path in sorted(pages.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        try:
            names = list(places(page))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        tables = {name: _read(folder / f"{name}.md") for name in names if (folder / f"{name}.md").is_file()}
        used += len(tables)
        new = filled(page, tables)
        if new != page:
            with whole(path) as temporary:
                temporary.write_text(new, encoding="utf-8")
        said += [f"{path.name}: {name}: {'filled' if name in tables else 'no table, left as it is'}" for name in names]
    if not used:
        raise DataError(f"{folder} has no table of {pages}: run kuleshov reproduce run NAME --to {folder}")
    return said


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill and say what was done."""
    parser = argparse.ArgumentParser(description="Put tables of recipes into the pages of the papers.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where kuleshov reproduce run wrote its tables")
    parser.add_argument("--pages", type=Path, default=PAGES, metavar="PAGES", help="default: docs/papers")
    told = parser.parse_args(arguments)
    try:
        print("\n".join(fill(told.folder, told.pages)))
    except DataError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
