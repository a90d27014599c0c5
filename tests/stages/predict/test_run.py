"""Prediction end to end, with the real detector, backbones and heads: the same answers as in training."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.keys import item_key
from cache.store import Store
from stages import predictions as prediction_files
from stages.detect.run import boxes_spec
from stages.errors import DataError, WeightsError
from stages.extract.plan import plan_role
from stages.heads.loss_settings import LossSettings
from stages.index.contents import ContentIndex
from stages.index.drawn.clips import plan_clip, write_clip
from stages.ledger import Ledger
from stages.predict.annotate import scale_of
from stages.predict.inputs import find_photos, manifest_of
from stages.predict.run import Prediction, run, write
from stages.train.models import Ensemble, load


def predict(
    project: Any, model: Ensemble, inputs: list[Path], scratch: Path, batch_size: int = 5
) -> tuple[list[Prediction], Ledger]:
    ledger = Ledger("predict")
    photos = find_photos([str(path) for path in inputs])
    manifest = manifest_of(photos, ContentIndex(scratch / "contents.sqlite"), ledger)
    return run(model, manifest, Store(scratch / "store"), project.weights, batch_size, ledger), ledger


@pytest.fixture(scope="module")
def both(project: Any) -> Ensemble:
    return load(project.artifacts / "models" / "fused" / "both")


def test_the_same_probabilities_as_in_training(project: Any, both: Ensemble, tmp_path: Path) -> None:
    """Another batch size, other neighbours, the photos' own paths: the same answers."""
    answers, ledger = predict(project, both, [project.images / "images"], tmp_path)
    assert len(ledger) == 0
    written = prediction_files.read(project.artifacts / "predictions" / "fused" / "both.csv")
    rows = {Path(name).name: row for name, row in zip(written.sample_ids, written.probabilities, strict=True)}
    assert len(answers) == len(rows) == 7
    for one in answers:
        name = Path(one.sample.path).name
        np.testing.assert_allclose([one.probabilities[c] for c in written.classes], rows[name], atol=1e-4)
        found = project.detections.faces(f"images/{name}")
        np.testing.assert_allclose(one.faces.boxes, found.boxes, atol=1e-3)
        assert one.label == max(one.probabilities, key=lambda c: one.probabilities[c])


def test_attention_is_the_members_mean(project: Any, both: Ensemble, tmp_path: Path) -> None:
    answers, _ = predict(project, both, [project.images / "images"], tmp_path)
    expected: dict[str, np.ndarray] = {}
    for member, weight in (("average-s0", 0.25), ("attention_c-s0", 0.75)):
        with open(project.artifacts / "attention" / "heads" / f"{member}.csv", newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                name = Path(row["sample_id"]).name
                weights = expected.setdefault(name, np.zeros(len(project.detections.faces(row["sample_id"]))))
                weights[int(row["face"])] += weight * float(row["weight"])
    for one in answers:
        name = Path(one.sample.path).name
        assert len(one.attention) == len(one.faces)
        if len(one.faces):
            np.testing.assert_allclose(one.attention, expected[name], atol=1e-4)
            assert one.attention.sum() == pytest.approx(1, abs=1e-5)
    assert any(len(one.faces) > 3 and (one.attention == 0).any() for one in answers)  # max_faces is 3


def test_inputs_of_all_kinds(project: Any, both: Ensemble, tmp_path: Path) -> None:
    scene = sorted((project.images / "images").glob("*.jpg"))[0]
    folder = tmp_path / "in"
    for name in ("one/photo.jpg", "two/photo.jpg"):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(scene, folder / name)
    Image.new("RGB", (300, 200), (90, 140, 200)).save(folder / "no_face.png")
    Image.new("L", (13, 17), 90).save(folder / "tiny.png")
    (folder / "text.jpg").write_text("this is no photo")
    (folder / "cut.jpg").write_bytes(scene.read_bytes()[:2000])
    (folder / "also_cut.jpg").write_bytes(scene.read_bytes()[:2000])
    answers, ledger = predict(project, both, [folder], tmp_path)
    by_name = {Path(one.sample.path).relative_to(folder).as_posix(): one for one in answers}
    assert set(by_name) == {"one/photo.jpg", "two/photo.jpg", "no_face.png", "tiny.png"}
    # a product of matrices may round a row otherwise than the one below it
    assert by_name["one/photo.jpg"].probabilities == pytest.approx(by_name["two/photo.jpg"].probabilities, abs=1e-6)
    assert len(by_name["no_face.png"].faces) == 0
    assert sum(by_name["no_face.png"].probabilities.values()) == pytest.approx(1)
    reasons = {Path(name).name: reason for name, (reason, _) in ledger.entries.items()}
    assert set(reasons) == {"text.jpg", "cut.jpg", "also_cut.jpg"}
    assert reasons["text.jpg"] == "not_an_image"

    out = tmp_path / "out"
    written = list(write(answers, both.members[0].classes, out, ledger))
    assert {path.relative_to(out).as_posix() for path in written[:2]} == {"predictions.csv", "predictions.jsonl"}
    names = {path.name for path in written[2:]}
    assert len(names) == 4
    assert {"photo.jpg", "no_face.jpg", "tiny.jpg"} < names
    check_tables(answers, both.members[0].classes, out)
    check_frames(by_name["one/photo.jpg"], out / "annotated" / "photo.jpg")


def check_tables(answers: list[Prediction], classes: tuple[str, ...], out: Path) -> None:
    with open(out / "predictions.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(rows[0]) == ["file", "predicted", "faces", "picture", *classes]
    for one, row, line in zip(answers, rows, lines, strict=True):
        assert row["file"] == line["file"] == one.sample.sample_id
        assert row["predicted"] == line["predicted"] == one.label
        assert int(row["faces"]) == len(line["faces"]) == len(one.faces)
        assert row["picture"] == line["picture"]
        assert (out / row["picture"]).is_file()
        for name in classes:
            assert float(row[name]) == pytest.approx(one.probabilities[name], rel=1e-5)
            assert line["probabilities"][name] == pytest.approx(one.probabilities[name], abs=1e-6)
        for face, box, weight in zip(line["faces"], one.faces.boxes, one.attention, strict=True):
            assert face["box"] == pytest.approx(box.tolist(), abs=0.01)
            assert face["attention"] == pytest.approx(weight, abs=1e-6)
            assert 0 < face["score"] <= 1


def check_frames(one: Prediction, path: Path) -> None:
    """The strongest face's frame is drawn in orange along its left side."""
    with Image.open(path) as opened, Image.open(one.sample.path) as original:
        picture = np.asarray(opened.convert("RGB")).astype(int)
        assert opened.width == round(original.width * scale_of(original.size))
        x1, y1, _, y2 = one.faces.boxes[one.attention.argmax()] * scale_of(original.size)
    column = picture[round(y1) + 4 : round(y2) - 4, round(x1) + 1]
    assert (np.abs(column - (255, 176, 0)).max(-1) < 60).mean() > 0.8


def test_a_failure_counts_for_copies_too(project: Any, both: Ensemble, tmp_path: Path) -> None:
    """The stages work on each content once; neither of two equal photos may stop the command."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), (9, 99, 199)).save(tmp_path / name)
    member = both.members[0]
    detections_key = boxes_spec(member.detect).key
    plan = plan_role("effnet_lite0", member.extract, project.weights, detections_key, member.detect.faces)
    content = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    with Store(tmp_path / "store").writer(plan.blocks["pooled"]) as writer:
        writer.add(item_key(content), None, status="non_finite")
    answers, ledger = predict(project, both, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path)
    assert answers == []
    assert {Path(k).name: reason for k, (reason, _) in ledger.entries.items()} == dict.fromkeys(
        ("a.png", "b.png"), "non_finite"
    )


def test_nothing_readable_is_no_answer(project: Any, both: Ensemble, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is no photo")
    answers, ledger = predict(project, both, [tmp_path / "text.jpg"], tmp_path)
    assert answers == []
    assert len(ledger) == 1
    assert len(list(write(answers, both.members[0].classes, tmp_path / "out", ledger))) == 2
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == b""


def test_a_photo_that_goes_away_has_no_picture(project: Any, both: Ensemble, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    answers, ledger = predict(project, both, [tmp_path / "x.png"], tmp_path)
    (tmp_path / "x.png").unlink()
    assert len(list(write(answers, both.members[0].classes, tmp_path / "out", ledger))) == 2
    assert [reason for reason, _ in ledger.entries.values()] == ["missing"]


def changed(model: Ensemble, position: int, **changes: Any) -> Ensemble:
    members = list(model.members)
    members[position] = replace(members[position], **changes)
    return replace(model, members=tuple(members))


@pytest.mark.parametrize("position", [0, 1])
def test_other_weights_are_refused_before_any_work(project: Any, both: Ensemble, tmp_path: Path, position: int) -> None:
    weights = dict(both.members[position].weights)
    weights["resnet29"] = {**weights["resnet29"], "sha256": "f" * 64}
    with pytest.raises(WeightsError, match="trained with resnet29 of sha256 ffffffffffff, here is resnet29") as caught:
        predict(project, changed(both, position, weights=weights), [project.images / "images"], tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "store" / "blocks").iterdir())


def test_missing_weights_are_refused(project: Any, both: Ensemble, tmp_path: Path) -> None:
    """A damaged file in the weights folder is not passed over in silence, and the error is one line."""
    folder = tmp_path / "weights"
    shutil.copytree(project.weights, folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(WeightsError) as caught:
        predict(replace(project, weights=folder), both, [project.images / "images"], tmp_path)
    assert "\n" not in str(caught.value)


def test_members_that_disagree(project: Any, both: Ensemble, tmp_path: Path) -> None:
    other = changed(both, 1, classes=("a", "b", "c"))
    with pytest.raises(DataError, match="-s0 differ in classes or detection"):
        predict(project, other, [project.images / "images"], tmp_path)


def test_a_model_of_given_boxes_is_refused(project: Any, both: Ensemble, tmp_path: Path) -> None:
    detect = both.members[0].detect.model_copy(update={"faces": "given"})
    model = changed(changed(both, 0, detect=detect), 1, detect=detect)
    with pytest.raises(DataError, match="face boxes given with the data"):
        predict(project, model, [project.images / "images"], tmp_path)


def test_clips_beside_photos(project: Any, both: Ensemble, tmp_path: Path) -> None:
    clip, photo = tmp_path / "clip.mp4", sorted((project.images / "images").glob("*.jpg"))[0]
    plan = plan_clip(0, 0)
    write_clip(clip, replace(plan, places=plan.places[:6], expressions=plan.expressions[:6]))
    (tmp_path / "no.mp4").write_bytes(clip.read_bytes()[:200])
    answers, ledger = predict(project, both, [clip, photo, tmp_path / "no.mp4"], tmp_path)
    assert {Path(name).name for name in ledger.entries} == {"no.mp4"}
    [seen] = [one for one in answers if one.sample.media == "video"]
    assert len(answers) == 2
    assert seen.times_us is not None
    assert (len(seen.times_us), seen.frame.tolist(), set(seen.tracks.tolist())) == (6, list(range(6)), {0})
    assert seen.attention.sum() == pytest.approx(1, abs=1e-5)
    assert seen.shown_frame == int(seen.attention.argmax())
    pictures = list(write(answers, both.members[0].classes, tmp_path / "out", ledger))[2:]
    assert {path.name for path in pictures} == {"clip.jpg", f"{photo.stem}.jpg"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    [told] = [line for line in lines if line["file"].endswith("clip.mp4")]
    assert told["frames_s"] == (seen.times_us / 1e6).tolist()
    assert told["picture_s"] == told["frames_s"][seen.shown_frame]
    assert [(face["time_s"], face["track"]) for face in told["faces"]] == [(t, 0) for t in told["frames_s"]]
    assert all("track" not in face for line in lines if line is not told for face in line["faces"])


def of_several(model: Ensemble, place: int) -> Ensemble:
    """The same, with a head that was trained on several labels."""
    loss = LossSettings(kind="multi_label")
    return changed(model, place, settings=model.members[place].settings.model_copy(update={"loss": loss}))


def test_scores_of_several_labels(project: Any, tmp_path: Path) -> None:
    """The same logits, each class by itself: its scores are in the order of its probabilities, in a photo."""
    one = load(project.artifacts / "models" / "heads" / "average-s0")
    photos = sorted((project.images / "images").glob("*.jpg"))[:2]
    plain, _ = predict(project, one, photos, tmp_path)
    answers, ledger = predict(project, of_several(one, 0), photos, tmp_path)
    classes = one.members[0].classes
    for before, after in zip(plain, answers, strict=True):
        scores = np.array([after.probabilities[name] for name in classes])
        assert ((scores > 0) & (scores < 1)).all()
        assert np.argsort(scores).tolist() == np.argsort([before.probabilities[name] for name in classes]).tolist()
        if scores.max() < 1 - 1e-7:  # these are sigmoids, and give back the probabilities of the head of one label
            odds = scores / (1 - scores)
            probabilities = [before.probabilities[name] for name in classes]
            np.testing.assert_allclose(odds / odds.sum(), probabilities, rtol=1e-4)
        assert after.several
        assert not before.several
        assert after.label == before.label
    list(write(answers, classes, tmp_path / "out", ledger))
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert all("probabilities" not in line for line in lines)
    assert [line["scores"] for line in lines] == [one.probabilities for one in answers]
    with open(tmp_path / "out" / "predictions.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [[float(row[name]) for name in classes] for row in rows] == [
        [one.probabilities[name] for name in classes] for one in answers
    ]


def test_members_of_several_labels_and_of_one_are_refused(project: Any, both: Ensemble, tmp_path: Path) -> None:
    photos = [project.images / "images"]
    with pytest.raises(
        DataError, match="one answers with several labels, the other with one: their numbers have no mean"
    ):
        predict(project, of_several(both, 1), photos, tmp_path)
