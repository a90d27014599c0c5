"""Pages of members that answer with several labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stages.errors import SettingError
from stages.evaluate.run import evaluate
from stages.index.manifest import Manifest, Sample
from stages.report import choice, several, words
from stages.report.build import build_report
from stages.report.inputs import ReportInputs

MakeInputs = Callable[..., ReportInputs]


def test_the_page_says_what_it_should(make_ranking: MakeInputs) -> None:
    inputs = make_ranking()
    text = build_report(inputs)
    mean = inputs.metrics["several"]["fused"]["both"]["mean_average_precision"]
    for part in (
        "finds 3 labels among 11 test photos with a mean average precision of",
        f"<strong>{100 * mean['value']:.1f}\u202f%</strong>",
        "Difference to that baseline:",
        "1 sample of this split without a label: predicted, not ranked.",
        "<h2>Average precision</h2>",
        "of means over classes the basic bootstrap; 200 draws of 11 samples",
        "ada <small>head, 2 seeds</small>",
        "no ranking <small>baseline</small>",
        "<h3>Class by class: both</h3>",
        "<h3>Mean average precision by subset</h3>",
        "indoor (n = 6)",
        "11 of 11 ranked,",
        "1 of 1 not scored.",
        "Scores stand each by itself",
    ):
        assert part in text, part
    for part in ("<h2>Accuracy</h2>", "Confusion of", "Recall", "no label or several", "uncertain ones"):
        assert part not in text, part
    assert text.count("<b>ranked</b>") == 11
    assert text.count("</section>") == text.count("<section>")


def test_every_number_is_that_of_the_metrics(make_ranking: MakeInputs) -> None:
    metrics = make_ranking().metrics
    found = several.section(metrics, "both")
    assert found is not None
    fused = metrics["several"]["fused"]["both"]
    assert found.member == "both"
    assert [one.name for one in found.results] == ["both", "ada", "bea", "no ranking"]
    assert found.results[0].mean == words.percent(fused["mean_average_precision"]["value"])
    assert found.results[0].over == words.points(fused["over_baseline"]["value"])
    assert found.results[1].between == words.interval(metrics["several"]["heads"]["ada"]["mean_average_precision"])
    assert found.by_class.columns == ("both", "ada", "bea")
    name, n, share, cells = found.by_class.rows[0]
    calm = fused["average_precision"]["calm"]
    assert (name, n) == ("calm", calm["n"])
    assert share == words.percent(metrics["several"]["baseline"]["average_precision"]["calm"]["value"])
    assert cells[0] == (words.percent(calm["value"]), words.interval(calm))
    assert found.by_class.rows[-1][0] == "mean"
    ranked = [mark.at or 0 for mark in found.classes.marks]
    assert ranked == sorted(ranked, reverse=True)
    assert {mark.name for mark in found.classes.marks} == {"calm", "glad", "sad"}
    assert all(mark.base is not None and 0 <= mark.base <= 100 for mark in found.classes.marks)
    assert [name for name, _ in found.subset_rows] == ["both", "ada", "bea", "no ranking"]


def test_a_class_that_nobody_has_is_a_dash(make_ranking: MakeInputs) -> None:
    whole = make_ranking()
    samples = [
        replace(s, labels=tuple(name for name in s.labels if name != "sad")) if s.split == "test" else s
        for s in whole.manifest.samples
    ]
    manifest = Manifest(tuple(samples))
    members = [
        replace(p, labels=tuple(manifest.by_id[name].labels for name in p.sample_ids)) for p in whole.predictions
    ]
    metrics = evaluate(members, manifest, split="test", resamples=50)
    text = build_report(make_ranking(metrics=metrics, predictions=members, manifest=manifest))
    assert "finds 2 labels among" in text
    assert "1 class of 3 without a photo in\ntest have none, and are not in the mean: sad." in text
    found = several.section(metrics, "both")
    assert found is not None
    assert (found.classes.marks[-1].name, found.classes.marks[-1].at, found.classes.marks[-1].value) == (
        "sad",
        None,
        "–",
    )


def test_nothing_scored_is_still_a_page(make_ranking: MakeInputs) -> None:
    whole = make_ranking()
    manifest = Manifest(tuple(replace(s, labels=()) for s in whole.manifest.samples))
    members = [replace(p, labels=((),) * len(p)) for p in whole.predictions]
    metrics = evaluate(members, manifest, split="test")
    text = build_report(make_ranking(metrics=metrics, predictions=members, manifest=manifest))
    assert "Nothing is scored on test: no sample there has a label." in text
    assert text.count("<b>not scored</b>") == 12


def test_heads_and_members_of_one_label_beside_them(make_inputs: MakeInputs, make_ranking: MakeInputs) -> None:
    whole = make_ranking()
    heads = [replace(p, head="dag", name=f"dag-s{p.seed}") for p in whole.predictions[:2]]
    plain = replace(make_inputs().predictions[2], labels=whole.predictions[2].labels)
    metrics = evaluate([*heads, plain], whole.manifest, split="test", resamples=50)
    fields = {"metrics": metrics, "predictions": [*heads, plain], "attention": {}}
    text = build_report(make_ranking(**fields))
    assert "The head </" not in text
    assert "gives the label in the data to" in text
    assert text.index("<h2>Accuracy</h2>") < text.index("Confusion of bea") < text.index("<h2>Average precision</h2>")
    assert "<h3>Class by class: dag</h3>" in text
    assert "First wrong ones" in text
    other = build_report(make_ranking(**fields, headline="dag"))
    assert "<strong>dag</strong> (mean of 2 seeds) finds 3 labels" in other
    assert "bea, first seed, on test" in other
    assert "with the answers of dag-s0" in other
    with pytest.raises(SettingError, match="headline 'eve' was not scored; choose one of bea, dag"):
        make_ranking(**fields, headline="eve")


def test_everything_is_escaped(make_ranking: MakeInputs) -> None:
    whole, nasty = make_ranking(), "<b onclick='x'>&"

    def renamed(s: Sample) -> Sample:
        return replace(s, labels=tuple(nasty + name for name in s.labels), subset=nasty)

    manifest = Manifest(tuple(map(renamed, whole.manifest.samples)))
    members = [
        replace(
            p,
            head=nasty if p.kind == "fused" else p.head,
            name=nasty if p.kind == "fused" else p.name,
            classes=tuple(nasty + name for name in p.classes),
            labels=tuple(manifest.by_id[name].labels for name in p.sample_ids),
        )
        for p in whole.predictions
    ]
    metrics = evaluate(members, manifest, split="test", resamples=50)
    text = build_report(make_ranking(metrics=metrics, predictions=members, manifest=manifest))
    assert "<b onclick" not in text
    assert text.count("&lt;b onclick") > 30


def test_the_gallery_has_the_highest_score_of_each_class_first(make_ranking: MakeInputs) -> None:
    whole = make_ranking()
    member = whole.predictions[-1]
    found = choice.cases(member, whole.manifest, "test")
    assert {case.outcome for case in found} == {"ranked", "not scored"}
    assert all(case.hit is None for case in found)
    chosen = choice.choose(found, 3)
    said = [case for case in found if case.ranked]
    firsts = sorted({case.predicted for case in said})
    best = [max(case.probability for case in said if case.predicted == name) for name in firsts]
    assert [case.probability for case in chosen[: len(firsts)]] == best
    assert choice.choose(found[::-1], 3) == chosen
    assert [len(choice.choose(found, size)) for size in range(13)] == list(range(13))
