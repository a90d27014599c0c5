"""The parts of the report: words, scales, the choice of photos, thumbnails and what is drawn over them."""

from __future__ import annotations

import base64
import hashlib
import io
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.errors import DataError
from stages.evaluate.run import evaluate
from stages.index.clips import probe, read_frames
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.manifest import Sample
from stages.ledger import Ledger
from stages.report import choice, tables, words
from stages.report.charts import Scale, accuracy_chart, seeds_chart
from stages.report.choice import Case
from stages.report.inputs import ReportInputs
from stages.report.pictures import BUDGET, LONG_SIDE, thumbnail, tiles

MakeInputs = Callable[..., ReportInputs]


def case(i: int, label: str | None, said: str, probability: float, second: float) -> Case:
    labels = () if label is None else (label,)
    sample = Sample(f"s{i:03d}", f"{i}.png", "image", labels, "test", "", "", (), "0" * 64)
    return Case(sample, said, probability, ("other", second), None if label is None else label == said)


def test_numbers_in_words() -> None:
    assert words.percent(0.7144) == "71.4\u202f%"
    assert words.percent(1.0, 0) == "100\u202f%"
    assert words.percent(None) == "–"
    assert words.interval({"low": 0.6, "high": 0.756}) == "60.0 to 75.6"
    assert words.interval({"low": None, "high": None}) == "–"
    assert [words.points(value) for value in (0.123, -0.05, None)] == ["+12.3", "−5.0", "–"]
    assert [words.plural(n, "sample") for n in (1, 2, 12345)] == ["1 sample", "2 samples", "12\u2009345 samples"]


def test_the_headline_speaks_of_the_named_member(make_inputs: MakeInputs) -> None:
    metrics = make_inputs().metrics
    fused = metrics["fused"]["both"]["accuracy"]
    text = "".join(piece for piece, _ in words.headline(metrics, "both"))
    interval = f"{100 * fused['low']:.1f} to {100 * fused['high']:.1f}"
    assert text.startswith(
        f"The ensemble both gives the label in the data to {100 * fused['value']:.1f}\u202f% of 11 test photos "
        f"(95\u202f% interval {interval}). Always answering calm"
    )
    text = "".join(piece for piece, _ in words.headline(metrics, "ada"))
    assert text.startswith("The head ada (mean of 2 seeds) gives")
    assert "Nothing is scored" in words.headline({**metrics, "n": 0}, "both")[0][0]


@pytest.mark.parametrize(
    ("low", "high", "end"),
    [(0.1, 0.2, "It is clear of zero."), (-0.1, 0.2, "not clear of zero."), (-0.2, -0.1, "below zero.")],
)
def test_the_verdict(low: float, high: float, end: str) -> None:
    metrics = {"fused": {"all": {"over_baseline": {"value": 0.0, "low": low, "high": high}}}, "heads": {}}
    assert words.verdict(metrics, "all").endswith(end)
    assert words.verdict(metrics, None) == ""


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=6))
def test_a_scale_holds_every_value(values: list[float | None]) -> None:
    scale = Scale(values)
    ends = [scale(value) for value in values if value is not None]
    assert all(end is not None and -0.001 <= end <= 100.001 for end in ends)
    assert 0 <= scale.start < scale.stop <= 10
    assert 3 <= len(scale.ticks()) <= 6


def test_scale_places() -> None:
    scale = Scale([0.42, 0.77])
    assert (scale(0.4), scale(0.8), scale(0.6), scale(None)) == (0.0, 100.0, 50.0, None)
    assert scale.ticks()[0] == (0.0, "40\u202f%")
    assert [at for at, _ in Scale([0.0, 1.0]).ticks()] == [0, 20, 40, 60, 80, 100]


def test_charts_have_every_member(make_inputs: MakeInputs) -> None:
    metrics = make_inputs().metrics
    chart = accuracy_chart(metrics)
    assert [(mark.name, mark.kind) for mark in chart.marks] == [
        ("both", "fused"),
        ("ada", "head"),
        ("bea", "head"),
        ("always calm", "baseline"),
    ]
    assert chart.marks[-1].at == chart.baseline
    seeds = seeds_chart(metrics)
    assert seeds is not None
    assert [len(mark.dots) for mark in seeds.marks] == [2, 2]
    assert seeds_chart({"heads": {}}) is None


def test_the_choice_is_a_third_of_each() -> None:
    found = [case(i, "abc"[i % 3], "a", 0.5 + i / 100, 0.5 - i / 100) for i in range(30)]
    chosen = choice.choose(found, 9)
    assert Counter(one.why for one in chosen) == {"wrong": 3, "uncertain": 3, "right": 3}
    # Wrong: the surest of b and of c, then the next of b. Uncertain: the closest calls. Right: the surest.
    assert [one.sample.sample_id for one in chosen] == [
        *("s028", "s029", "s025"),
        *("s000", "s001", "s002"),
        *("s027", "s024", "s021"),
    ]


@given(st.integers(0, 40), st.integers(0, 30), st.randoms())
def test_the_choice_is_whole_and_ignores_order(n: int, size: int, shuffle: random.Random) -> None:
    rng = np.random.default_rng(n)
    found = [
        case(i, None if i % 7 == 6 else "ab"[i % 2], "ab"[int(rng.integers(2))], 0.5 + i / 100, 0.2) for i in range(n)
    ]
    chosen = choice.choose(found, size)
    assert len(chosen) == len({one.sample.sample_id for one in chosen}) == min(n, size)
    mixed = list(found)
    shuffle.shuffle(mixed)
    assert choice.choose(mixed, size) == chosen
    for one in chosen:
        assert one.why == "uncertain" or {"wrong": False, "right": True, "unscored": None}[one.why] == one.hit


def test_cases_come_from_the_split_and_are_photos(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    found = choice.cases(inputs.predictions[-1], inputs.manifest, "test")
    assert [one.sample.sample_id for one in found] == [f"test/{i:02d}" for i in range(12)]
    assert found[11].hit is None
    row = inputs.predictions[-1].probabilities[0]
    assert found[0].probability == row.max()
    assert found[0].margin == pytest.approx(np.sort(row)[-1] - np.sort(row)[-2])
    assert choice.cases(inputs.predictions[-1], inputs.manifest, "train") == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 500), (320, 160)), ((30, 20), (30, 20)), ((5000, 1), (320, 1)), ((321, 640), (160, 320))],
)
def test_thumbnail_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data, *found = thumbnail(Image.new("RGB", size, "teal"))
    image = Image.open(io.BytesIO(data))
    assert tuple(found) == image.size == expected
    assert max(image.size) <= LONG_SIDE


def test_a_thumbnail_says_nothing_of_camera_or_place() -> None:
    image = Image.new("RGB", (64, 64), "teal")
    image.info.update(comment=b"at home", exif=b"Exif\0\0MM\0*secret", icc_profile=b"profile")
    data = thumbnail(image)[0]
    for word in (b"at home", b"secret", b"Exif", b"profile"):
        assert word not in data


def test_noise_stays_within_the_budget() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8))
    assert len(thumbnail(noise.crop((0, 0, 320, 320)))[0]) <= BUDGET


def test_boxes_are_scaled_with_the_photo(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    chosen = choice.cases(inputs.predictions[-1], inputs.manifest, "test")[:3]
    wide, tall, small = tiles(chosen, inputs.images_root, inputs.detections, inputs.attention["ada-s0"])
    first, second = wide.faces  # 400 x 300 -> 320 x 240
    assert (wide.width, wide.height) == (320, 240)
    assert (first.x, first.y, first.width, first.height) == (0.0, 32.0, 96.0, 56.0)
    assert (second.x, second.width) == (40.0, 56.0)
    assert (first.text, second.text) == ("0.25", "0.75")
    assert first.stroke < second.stroke
    assert first.opacity < second.opacity
    assert (tall.width, tall.height) == (96, 320)
    assert (small.width, small.height) == (200, 200)
    assert tall.font > wide.font
    image = Image.open(io.BytesIO(base64.b64decode(wide.uri.partition(",")[2])))
    assert (image.format, image.size) == ("JPEG", (320, 240))
    assert "2 detected faces. Label: calm." in wide.spoken


def test_only_three_weights_are_written_out(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    one = choice.cases(inputs.predictions[-1], inputs.manifest, "test")[:1]
    boxes = [{**inputs.detections[0], "face": str(face)} for face in range(6)]
    other = {**boxes[0], "frame": "1", "face": "9"}
    weights = [{"sample_id": "test/00", "frame": "0", "face": str(face), "weight": str(face / 15)} for face in range(6)]
    [tile] = tiles(one, inputs.images_root, [*boxes, other], weights)
    assert [face.text for face in tile.faces] == ["", "", "", "0.20", "0.27", "0.33"]
    assert len(tiles(one, inputs.images_root, boxes, [])[0].faces) == 6


def test_a_box_over_the_border_is_cut(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    one = choice.cases(inputs.predictions[-1], inputs.manifest, "test")[:1]
    row = {"sample_id": "test/00", "frame": "0", "face": "0", "x1": "-50", "y1": "-10", "x2": "9000", "y2": "150"}
    [face] = tiles(one, inputs.images_root, [row], [])[0].faces
    assert (face.x, face.y, face.width, face.height) == (0.0, 0.0, 320.0, 120.0)


def test_a_weight_stays_on_the_photo(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    one = choice.cases(inputs.predictions[-1], inputs.manifest, "test")[:1]
    row = {"sample_id": "test/00", "frame": "0", "face": "0", "x1": "390", "y1": "0", "x2": "400", "y2": "20"}
    [tile] = tiles(one, inputs.images_root, [row], [{**row, "weight": "1"}])
    [face] = tile.faces
    assert 0 < face.text_x < 320 - 3 * tile.font
    assert face.text_y > tile.font


@pytest.mark.parametrize("change", [{"x1": "left"}, {"x2": "nan"}, {"face": None}, {"y1": ""}])
def test_a_damaged_row_is_named(make_inputs: MakeInputs, change: dict[str, str | None]) -> None:
    inputs = make_inputs()
    one = choice.cases(inputs.predictions[-1], inputs.manifest, "test")[:1]
    row = {**inputs.detections[0], **change}
    with pytest.raises(DataError, match=r"detections\.csv: row of sample 'test/00' has no usable x1, y1, x2, y2"):
        tiles(one, inputs.images_root, [row], [])  # pyright: ignore[reportArgumentType]


def test_a_photo_that_is_gone_or_changed_is_a_tile_that_says_so(make_inputs: MakeInputs) -> None:
    inputs = make_inputs()
    (inputs.images_root / "test/0.png").unlink()
    Path(inputs.images_root / "test/1.png").write_bytes((inputs.images_root / "test/2.png").read_bytes())
    chosen = choice.cases(inputs.predictions[-1], inputs.manifest, "test")[:2]
    found = tiles(chosen, inputs.images_root, [], [])
    assert [(tile.uri, tile.problem) for tile in found] == [("", "missing"), ("", "changed")]


def test_confusion_cells_and_order(make_inputs: MakeInputs) -> None:
    metrics = make_inputs().metrics
    found = tables.confusions(metrics, "bea")
    assert [one.name for one in found] == ["bea", "both", "ada"]
    assert found[0].title == "n = 11 for each of 2 seeds, summed"
    label, n, recall, cells = found[1].rows[0]
    assert (label, n) == ("calm", 4)
    assert sum(cell.share for cell in cells) == pytest.approx(1)
    assert recall == words.percent(cells[0].share, 0)
    assert [cell.is_hit for cell in cells] == [True, False, False]


def test_long_lists_of_failures_are_cut() -> None:
    ledger = Ledger("detect")
    for i in range(25):
        ledger.record(f"s{i:02d}", "empty" if i else "truncated")
    [found] = tables.failed({"detect": ledger})
    assert (found.count, len(found.items), found.more) == (25, 20, 5)
    assert found.reasons == (("empty", 24), ("truncated", 1))


def test_provenance_of_any_shape() -> None:
    found = tables.provenance({"a": 1, "b": {"c": [1, "x"], "d": None}, "e": {"f": {"g": 2, "h": 3}}})
    assert found == [("a", [("", "1")]), ("b", [("c", "1, x"), ("d", "–")]), ("e", [("f", "g: 2; h: 3")])]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample, np.ndarray]:
    """A drawn clip on disk: its folder, its sample, the times of its frames in microseconds."""
    root = tmp_path_factory.mktemp("clips")
    write_clip(root / "clip.mp4", plan_clip(0, 0))
    content = hashlib.sha256((root / "clip.mp4").read_bytes()).hexdigest()
    return (
        root,
        Sample("clip", "clip.mp4", "video", ("a",), "test", "", "", (), content),
        probe(root / "clip.mp4").times_us,
    )


def _box(frame: int, time_us: int, face: int = 0) -> dict[str, str]:
    place = {"sample_id": "clip", "frame": str(frame), "face": str(face), "time_s": f"{time_us / 1e6:.6f}"}
    return place | {"x1": str(10 * frame), "y1": "5", "x2": str(10 * frame + 40), "y2": "60"}


def test_a_clip_shows_the_frame_whose_faces_weigh_most(clip: tuple[Path, Sample, np.ndarray]) -> None:
    root, sample, times = clip
    shown = [2, 9, 15]
    boxes = [_box(frame, int(times[at])) for frame, at in enumerate(shown)]
    weights = [{**row, "weight": weight} for row, weight in zip(boxes, ("0.2", "0.7", "0.1"), strict=True)]
    [tile] = tiles([Case(sample, "a", 0.9, None, True)], root, boxes, weights)
    assert tile.problem == ""
    assert [round(face.x) for face in tile.faces] == [10]
    assert tile.spoken.startswith("Clip, one frame with 1 detected face.")
    [frame] = read_frames(root / "clip.mp4", [int(times[9])])
    assert base64.b64decode(tile.uri.partition(",")[2]) == thumbnail(frame)[0]


def test_a_clip_without_a_face_shows_its_middle(clip: tuple[Path, Sample, np.ndarray]) -> None:
    root, sample, times = clip
    [tile] = tiles([Case(sample, "a", 0.9, None, True)], root, [], [])
    [frame] = read_frames(root / "clip.mp4", [int(times[len(times) // 2])])
    assert base64.b64decode(tile.uri.partition(",")[2]) == thumbnail(frame)[0]
    [gone] = tiles([Case(sample, "a", 0.9, None, True)], root / "elsewhere", [], [])
    assert (gone.uri, gone.problem) == ("", "missing")


def test_fine_tunes_stand_beside_heads(make_inputs: MakeInputs) -> None:
    whole = make_inputs()
    nets = [
        replace(p, name=f"net-s{p.seed}", head="net", kind="finetuned") for p in whole.predictions if p.head == "ada"
    ]
    metrics = evaluate([*whole.predictions, *nets], whole.manifest, split="test", resamples=200)
    rows = {row.name: row for row in tables.results(metrics)}
    assert list(rows) == ["both", "ada", "bea", "net", "always calm"]
    assert rows["net"] == replace(rows["ada"], name="net", kind="fine-tune, 2 seeds")
    assert [mark.kind for mark in accuracy_chart(metrics).marks] == ["fused", "head", "head", "finetuned", "baseline"]
    seeds = seeds_chart(metrics)
    assert seeds is not None
    assert [(mark.name, mark.kind) for mark in seeds.marks][2:] == [("net", "finetuned")]
    assert [name for name, _ in tables.subsets(metrics)[1]] == ["both", "ada", "bea", "net", "always calm"]
    assert tables.recalls(metrics, "net") == tables.recalls(metrics, "ada")
    assert [one.name for one in tables.confusions(metrics, "net")] == ["net", "both", "ada", "bea"]
    text = "".join(piece for piece, _ in words.headline(metrics, "net"))
    assert text.startswith("The fine-tuned network net (mean of 2 seeds) gives")
    assert words.verdict(metrics, "net") == words.verdict(metrics, "ada") != ""
