"""The page as a whole: what it says, that it is safe and self-contained, and how a real browser lays it out."""

from __future__ import annotations

import hashlib
import html.parser
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.errors import DataError, MissingInputError, SettingError
from stages.evaluate.run import evaluate, write_metrics
from stages.index.manifest import Manifest
from stages.ledger import Ledger
from stages.predictions import write
from stages.report.build import build_report, write_report
from stages.report.inputs import ReportInputs, read_inputs

MakeInputs = Callable[..., ReportInputs]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "<script>alert('x')</script>\"&'"
VOID = {"meta", "line", "circle", "rect", "image", "br", "link", "input", "img"}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and insists that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def assert_self_contained(page: Page, text: str) -> None:
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert (value or "").startswith("data:image/jpeg;base64,"), (tag, name)
    assert not re.search(r"https?://", text)
    assert not re.search(r"url\(|@import", text)


def test_the_page_says_what_it_should(make_inputs: MakeInputs) -> None:
    text = build_report(make_inputs(title="Our photos"))
    page = Page(text)
    assert_self_contained(page, text)
    for words in (
        "Our photos",
        "The ensemble both gives the label in the data to",
        "Nothing was trained, chosen or fitted on it.",
        "apparent emotion, as labelled",
        "Faces are personal data.",
        "95\u202f% intervals: percentile bootstrap, 200 draws of 11 samples".replace("\u202f", " "),
        "Spread over seeds",
        "indoor (n = 6)",
        "Confusion of both",
        "12 photos of test with the answers of both",
        "are the attention of ada-s0",
        "truncated 1",
        "test/zztruncated: ends after 12 bytes",
        "torch 2",
    ):
        assert words in page.text, words
    assert sum(tag == "image" for tag, _ in page.tags) == 12
    assert text.count("✓") + text.count("✕") == 11
    assert text.count("○") == 1


def test_right_and_wrong_do_not_rest_on_colour(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    page = Page(build_report(inputs))
    spoken = [str(a.get("aria-label")) for tag, a in page.tags if tag == "svg" and a.get("class") == "photo"]
    confusion = inputs.metrics["fused"]["both"]["confusion"]
    hits = sum(confusion[i][i] for i in range(3))
    assert sum(one.endswith("Right.") for one in spoken) == hits
    assert sum(one.endswith("Wrong.") for one in spoken) == 11 - hits
    assert page.text.count("✓ right") == hits


def test_everything_is_escaped(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()

    def rename(name: str) -> str:
        return name + NASTY

    samples = [
        replace(s, sample_id=rename(s.sample_id), labels=tuple(map(rename, s.labels)), subset=NASTY)
        for s in inputs.manifest.samples
    ]
    manifest = Manifest(tuple(samples))
    members = [
        replace(
            p,
            name=NASTY if p.kind == "fused" else p.name,
            head=NASTY if p.kind == "fused" else p.head,
            sample_ids=tuple(map(rename, p.sample_ids)),
            labels=tuple(tuple(map(rename, labels)) for labels in p.labels),
            classes=tuple(map(rename, p.classes)),
        )
        for p in inputs.predictions
    ]
    ledger = Ledger("detect")
    ledger.record(NASTY, NASTY, NASTY)
    text = build_report(
        make_inputs(
            manifest=manifest,
            predictions=members,
            metrics=evaluate(members, manifest, split="test", resamples=50),
            attention={NASTY: [{**row, "sample_id": rename(row["sample_id"])} for row in inputs.attention["ada-s0"]]},
            failures={NASTY: ledger},
            provenance={NASTY: {NASTY: NASTY}},
            title=NASTY,
        )
    )
    page = Page(text)
    assert_self_contained(page, text)
    assert "alert('x')" not in text
    assert page.text.count(NASTY) > 30
    assert sum(tag == "image" for tag, _ in page.tags) == 12


def test_equal_inputs_are_equal_bytes(make_inputs: MakeInputs, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report(make_inputs(), tmp_path / "out" / name)
    assert (tmp_path / "out/one.html").read_bytes() == (tmp_path / "out/two.html").read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.html", "two.html"]


def test_without_photos_and_without_the_rest(make_inputs: MakeInputs) -> None:
    text = build_report(make_inputs(gallery_size=0, detections=(), attention={}, failures={}, provenance={}))
    page = Page(text)
    assert "It contains no photos." in page.text
    assert "data:image" not in text
    for heading in ("Photos", "What failed", "Where this comes from"):
        assert heading not in page.text.split()


def test_heads_alone_and_one_seed(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    members = [inputs.predictions[2]]
    metrics = evaluate(members, inputs.manifest, split="test", resamples=50)
    page = Page(build_report(make_inputs(predictions=members, metrics=metrics)))
    assert "The head bea (mean of 1 seed) gives" in page.text
    assert "Spread over seeds" not in page.text
    assert "bea, first seed, on test" in page.text
    assert "with the answers of bea-s0" in page.text
    # bea has no attention of its own: that of another is shown and named.
    assert "are the attention of ada-s0" in page.text


def test_a_fine_tuned_network_alone_needs_no_attention(make_inputs: MakeInputs) -> None:
    whole = make_inputs()
    net = replace(whole.predictions[0], name="net-s0", head="net", kind="finetuned")
    metrics = evaluate([net], whole.manifest, split="test", resamples=200)
    text = build_report(make_inputs(metrics=metrics, predictions=[net], attention={}))
    page = Page(text)
    assert_self_contained(page, text)
    assert page.text.startswith("Emotion recognition: results")
    for words in (
        "The fine-tuned network net (mean of 1 seed) gives the label",
        "net fine-tune, 1 seed",
        "A fine-tune's dot is the mean over its seeds",
        "with the answers of net-s0",
        "Boxes: detected faces.",
        "Heads and fine-tunes: mean over seeds.",
    ):
        assert words in page.text
    both = make_inputs(metrics=evaluate([*whole.predictions, net], whole.manifest, split="test", resamples=200))
    assert "A head's or fine-tune's dot" in Page(build_report(both)).text
    assert "attention of ada-s0" in Page(build_report(both)).text


def test_metrics_of_a_version_without_fine_tunes(make_inputs: MakeInputs) -> None:
    whole = make_inputs()
    older = {key: value for key, value in whole.metrics.items() if key != "finetuned"}
    older["subsets"] = {
        name: {key: value for key, value in one.items() if key != "finetuned"}
        for name, one in whole.metrics["subsets"].items()
    }
    assert build_report(make_inputs(metrics=older)) == build_report(whole)
    assert "fine-tune" not in Page(build_report(whole)).text


def test_nothing_scored_is_still_a_page(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    manifest = Manifest(tuple(replace(s, labels=()) for s in inputs.manifest.samples))
    members = [replace(p, labels=((),) * len(p)) for p in inputs.predictions]
    metrics = evaluate(members, manifest, split="test")
    page = Page(build_report(make_inputs(manifest=manifest, predictions=members, metrics=metrics)))
    assert "Nothing is scored on test" in page.text
    assert page.text.count("○ not scored") == 12


def test_the_headline_can_be_named(make_inputs: MakeInputs) -> None:
    assert "The head ada (mean of 2 seeds)" in Page(build_report(make_inputs(headline="ada"))).text
    with pytest.raises(SettingError, match="headline 'eve' was not scored; choose one of both, ada, bea"):
        make_inputs(headline="eve")
    with pytest.raises(SettingError, match="gallery_size is 201"):
        make_inputs(gallery_size=201)


def test_24_photos_of_noise_are_under_a_megabyte_and_a_half(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (320, 320, 3), dtype=np.uint8))
    noise.save(inputs.images_root / "test/0.png")
    sample = replace(inputs.manifest.by_id["test/00"], content=_sha256(inputs.images_root / "test/0.png"))
    train = [s for s in inputs.manifest.samples if s.split == "train"]
    manifest = Manifest((*train, *(replace(sample, sample_id=f"n{i:02d}") for i in range(24))))
    p = inputs.predictions[-1]
    member = replace(
        p,
        sample_ids=tuple(f"n{i:02d}" for i in range(24)),
        splits=("test",) * 24,
        labels=(sample.labels,) * 24,
        probabilities=rng.dirichlet(np.ones(3), 24),
    )
    metrics = evaluate([member], manifest, split="test", resamples=50)
    text = build_report(make_inputs(manifest=manifest, predictions=[member], metrics=metrics))
    assert text.count("data:image/jpeg") == 24
    assert len(text.encode()) < 1_500_000


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_inputs_are_read_from_the_artifacts(make_inputs: MakeInputs, tmp_path: Path) -> None:
    inputs = make_inputs()
    folder = tmp_path / "artifacts"
    with pytest.raises(MissingInputError, match="run `kuleshov evaluate` first"):
        read_inputs(folder, inputs.images_root)
    inputs.manifest.write(folder / "manifest.csv")
    for p in inputs.predictions:
        write(folder / "predictions" / ("fused" if p.kind == "fused" else "heads") / f"{p.name}.csv", p)
    write_metrics(dict(inputs.metrics), folder / "metrics.json")
    inputs.failures["detect"].write(folder / "failures" / "detect.csv")
    for name, rows in (("detections", inputs.detections), ("attention/heads/ada-s0", inputs.attention["ada-s0"])):
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    found = read_inputs(folder, inputs.images_root, provenance=inputs.provenance)
    assert list(found.failures) == ["detect"]
    expected = build_report(make_inputs(failures={"detect": inputs.failures["detect"]}))
    assert build_report(found) == expected
    (folder / "metrics.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_inputs(folder, inputs.images_root)


def _browse(page: Path, *flags: str) -> str:
    """Run a headless browser that can reach nothing, and return what it writes."""
    assert CHROMIUM is not None
    settings = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    settings += " --disable-component-update --disable-sync --hide-scrollbars --host-resolver-rules=MAP*~NOTFOUND"
    command = [CHROMIUM, *settings.split(), f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def _with_long_names(inputs: ReportInputs) -> ReportInputs:
    """Every name four times as wide as a phone."""
    long = "averylongnamewithoutanybreak" * 8
    samples = [
        replace(s, sample_id=long + s.sample_id, labels=tuple(long + one for one in s.labels), subset=long + s.subset)
        for s in inputs.manifest.samples
    ]
    members = [
        replace(
            p,
            head=long + p.head,
            sample_ids=tuple(long + one for one in p.sample_ids),
            labels=tuple(tuple(long + one for one in labels) for labels in p.labels),
            classes=tuple(long + one for one in p.classes),
        )
        for p in inputs.predictions
    ]
    members = [replace(p, name=p.head if p.kind == "fused" else p.name) for p in members]
    manifest = Manifest(tuple(samples))
    ledger = Ledger("detect")
    ledger.record(long, long, long)
    return replace(
        inputs,
        manifest=manifest,
        predictions=members,
        metrics=evaluate(members, manifest, split="test", resamples=50),
        failures={long: ledger},
        provenance={long: {long: long}},
        title=long,
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: layout is not checked")
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("width", "are_names_long"), [(390, False), (390, True), (1200, True)])
def test_nothing_overflows(
    make_inputs: MakeInputs,
    make_ranking: MakeInputs,
    tmp_path: Path,
    width: int,
    are_names_long: bool,
    several: bool,
) -> None:
    """The browser's window has a least width, so the page is measured in a frame of the width asked for.

    With names that no column could hold, a confusion matrix may scroll within itself, but never the page.
    """
    make = make_ranking if several else make_inputs
    inputs = make(provenance={"Blocks": {"detect": "ab" * 64, "Commands": ["kuleshov extract"] * 9}})
    text = build_report(_with_long_names(inputs) if are_names_long else inputs)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert "Content-Security-Policy" not in text
    script = """<script>
    onmessage = (message) => { document.title = message.data; };
    </script>"""
    inner = """<script>
    addEventListener("load", () => {
      document.querySelectorAll("details").forEach((one) => { one.open = true; });
      const wide = [...document.querySelectorAll("main *")]
        .filter((one) => !one.closest("svg, .results thead, LONG"))
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5);
      const names = wide.map((one) => one.className);
      parent.postMessage(`${innerWidth} ${document.documentElement.scrollWidth} [${names}]`, "*");
    });
    </script></body>"""
    inner = inner.replace("LONG", ".scroll" if are_names_long else "none")
    (tmp_path / "report.html").write_text(text.replace("</body>", inner), encoding="utf-8")
    frame = f'<title>none</title>{script}<iframe src="report.html" style="width:{width}px;height:900px;border:0">'
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    dom = _browse(tmp_path / "frame.html", "--virtual-time-budget=5000", "--window-size=1400,1000", "--dump-dom")
    match = re.search(r"<title>(.*?)</title>", dom)
    assert match is not None
    assert match[1] == f"{width} {width} []"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: dark mode is not checked")
@pytest.mark.parametrize(("scheme", "ground"), [(1, (252, 251, 248)), (0, (21, 23, 26))])
def test_light_and_dark(make_inputs: MakeInputs, tmp_path: Path, scheme: int, ground: tuple[int, int, int]) -> None:
    write_report(make_inputs(), tmp_path / "report.html")
    shot = tmp_path / "shot.png"
    flags = (f"--screenshot={shot}", "--window-size=900,600", f"--blink-settings=preferredColorScheme={scheme}")
    _browse(tmp_path / "report.html", *flags)
    with Image.open(shot) as image:
        assert image.convert("RGB").getpixel((3, 3)) == ground
        assert len(set(image.convert("RGB").resize((90, 60)).get_flattened_data())) > 20


def test_what_was_tried_is_said(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    told = {"candidates": 12, "by": "accuracy on split val", "n": 9, "values": {"learning_rate": "<0.01>"}}
    text = build_report(replace(inputs, metrics={**inputs.metrics, "chosen": {"ada": told}}))
    assert "head, 2 seeds, best of 12" in text
    assert "ada: the best of 12 candidates by accuracy on split val (n = 9): learning_rate &lt;0.01&gt;" in text
    assert "What was tried" not in build_report(inputs)
