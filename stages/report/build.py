"""report: everything an experiment found, as one HTML file that needs no network."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from stages.predictions import Predictions
from stages.report import charts, choice, pictures, several, tables, words
from stages.report.inputs import ReportInputs
from stages.whole import whole


def build_report(inputs: ReportInputs) -> str:
    """The report as HTML: no script, no address, pictures as data URIs. Equal inputs give an equal text.

    Raises:
        DataError: a damaged row of detections or attention.
    """
    metrics = inputs.metrics
    member, ranking = inputs.member, several.section(inputs.metrics, inputs.member)
    ones = [*metrics["fused"], *words.trained(metrics)]
    one = member if member in ones else next(iter(ones), None)
    is_of_ranking = ranking is not None and member == ranking.member
    speaker = _speaker(inputs)
    found = choice.cases(speaker, inputs.manifest, metrics["split"]) if speaker else []
    chosen = choice.choose(found, inputs.gallery_size)
    attended = _attended(inputs, {case.sample.sample_id for case in chosen})
    columns, rows = tables.subsets(metrics)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=inputs.title,
            style=Markup(_file("style.css")),  # noqa: S704  # our own file, not a user's words
            metrics=metrics,
            finetuned=bool(metrics.get("finetuned")),
            member=member,
            one=one,
            ranking=ranking,
            headline=(several if is_of_ranking else words).headline(metrics, member),
            verdict=words.verdict(metrics, member),
            how=words.how(metrics),
            results=tables.results(metrics),
            choices=tables.choices(metrics),
            chart=charts.accuracy_chart(metrics),
            seeds=charts.seeds_chart(metrics),
            subset_columns=columns,
            subset_rows=rows,
            recalls=tables.recalls(metrics, one),
            confusions=tables.confusions(metrics, one),
            speaker=speaker,
            attended=attended,
            tally=_tally(found, chosen),
            tiles=pictures.tiles(chosen, inputs.images_root, inputs.detections, inputs.attention.get(attended, ())),
            failed=tables.failed(inputs.failures),
            provenance=tables.provenance(inputs.provenance),
        )
    )


def write_report(inputs: ReportInputs, path: Path) -> None:
    """Write the report as UTF-8, whole or not at all. Raises as `build_report`."""
    text = build_report(inputs)
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _speaker(inputs: ReportInputs) -> Predictions | None:
    """The predictions the gallery shows: the headline's ensemble, or the first seed of its head or fine-tune."""
    mine = [p for p in inputs.predictions if p.head == inputs.member]
    return min(mine, key=lambda p: (p.kind != "fused", p.seed or 0), default=None)


def _attended(inputs: ReportInputs, shown: set[str]) -> str:
    """Whose attention is drawn: the headline member's own, or else the first by name with a photo shown; "" if none."""
    own = {inputs.member, *(p.name for p in inputs.predictions if p.head == inputs.member)}
    names = sorted(inputs.attention, key=lambda name: (name not in own, name))
    return next((name for name in names if any(row.get("sample_id") in shown for row in inputs.attention[name])), "")


def _tally(found: list[choice.Case], chosen: list[choice.Case]) -> list[tuple[str, int, int]]:
    """(outcome, shown, in all) for the gallery's caption."""
    outcomes = ("right", "wrong", "ranked", "not scored")
    shown, every = (Counter(case.outcome for case in some) for some in (chosen, found))
    counts = [(word, shown[word], every[word]) for word in outcomes]
    return [row for row in counts if row[2]]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = words.percent
    environment.filters["plural"] = words.plural
    return environment


def _file(name: str) -> str:
    """The text of a file of templates/, also from within a wheel."""
    return resources.files("stages.report").joinpath("templates", name).read_text(encoding="utf-8")
