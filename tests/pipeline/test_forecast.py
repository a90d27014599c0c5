"""`kuleshov plan`: what it counts is what the stages then do; real detector, networks and store on small photos."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from cache.keys import FACES, item_key
from cache.store import Store
from pipeline.amounts import Amount, Role, distinct_roles
from pipeline.commands.plan import duration, lines
from pipeline.forecast import Forecast, Plan, choose, forecast
from pipeline.plans import role_plans
from pipeline.project import Project
from pipeline.scaffold.write import ProjectData, files
from pipeline.timed import shared, time_samples
from stages.backbones.registry import get_spec
from stages.detect.run import boxes_spec
from stages.errors import DataError, MissingInputError
from stages.extract.plan import RolePlan
from stages.index.drawn.clips import plan_clip, write_clip
from stages.index.drawn.scenes import draw_scene
from stages.index.manifest import Manifest, Sample
from stages.ledger import Ledger
from stages.timing import Spent, Timings

Run = Callable[..., tuple[int, str, str]]
Made = Callable[..., Project]

SCENES = 6


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small scenes with faces, a twin of the first, and a wall without a face."""
    place = tmp_path_factory.mktemp("photos")
    for index in range(SCENES):
        draw_scene(8, index).image.resize((160, 120)).save(place / f"{index}.png")
    shutil.copy(place / "0.png", place / "twin.png")
    Image.new("RGB", (60, 40), "grey").save(place / "wall.png")
    return place


@pytest.fixture
def made(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """`made({"extract": {...}})`: a project over copies of the photos, all in its manifest, with a store of its own."""

    def make(changes: dict[str, dict[str, object]] | None = None) -> Project:
        shutil.copytree(photos, tmp_path / "photos", dirs_exist_ok=True)
        values = yaml.safe_load(files(ProjectData("folder", "photos"))["params.yaml"])
        values["max_failures"] = "3"
        values["extract"]["batch_size"] = 4
        del values["extract"]["backbones"]["expression"]
        for part, change in (changes or {}).items():
            values[part] |= change
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        monkeypatch.setenv("KULESHOV_STORE", str(tmp_path / "store"))
        samples = [_sample(path) for path in sorted((tmp_path / "photos").iterdir())]
        Manifest(tuple(samples)).write(tmp_path / "artifacts" / "manifest.csv")
        return Project(tmp_path)

    return make


def _sample(path: Path) -> Sample:
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    media = "video" if path.suffix == ".mp4" else "image"
    return Sample(path.stem, path.name, media, ("calm",), "train", "", "", (), content)


def by_stage(plan: Plan) -> dict[str, Forecast]:
    return {one.stage: one for one in plan.forecasts}


def rows(store: Store, name: str) -> int:
    return sum(info.rows for info in store.blocks() if info.spec.name == name)


def bytes_of(store: Store, name: str) -> int:
    return sum(info.size for info in store.blocks() if info.spec.name == name)


def files_of(store: Store) -> list[Path]:
    return sorted(store.root.rglob("*"))


def computed(said: str) -> dict[str, tuple[int, int]]:
    """Stage -> how many it computed, and how many were in the store."""
    found = re.findall(r"^(\S+): \d+ .*?, (\d+) computed, (\d+) from the store", said, re.M)
    return {stage: (int(new), int(old)) for stage, new, old in found}


def test_what_was_planned_is_not_computed_again(made: Made, kuleshov: Run) -> None:
    project = made()
    plan = forecast(project, 3)
    assert (plan.samples, len(plan.failed), plan.is_done) == (3, 0, False)
    assert plan.start_s > 0
    found = by_stage(plan)
    assert list(found) == ["detect", "align", "extract effnet_lite0", "extract resnet29"]
    assert found["detect"].amount.left == SCENES + 1 - 3, "the twin is no photo of its own"
    assert found["detect"].amount.total == SCENES + 1
    assert found["detect"].is_exact
    assert not found["align"].is_exact
    assert found["extract effnet_lite0"].amount.left == pytest.approx(SCENES + 1 - 3)
    assert all(one.seconds is not None and one.seconds > 0 for one in plan.forecasts)
    assert not (project.artifacts / "blocks").exists()
    faces, size = rows(project.store, "mtcnn/boxes"), found["detect"].amount.size
    assert faces > 0
    assert found["extract resnet29"].amount.left == pytest.approx(faces * 4 / 3), "four photos as the three"
    assert found["extract resnet29"].amount.total == pytest.approx(faces * 7 / 3)
    before = bytes_of(project.store, "mtcnn/boxes") + bytes_of(project.store, "media/size")
    said = "".join(kuleshov("-C", project.folder, stage)[1] for stage in ("detect", "align", "extract"))
    assert computed(said) == {
        "detect": (4, 4),  # of 8 samples, where the twin comes with the first scene
        "align": (4, 4),
        "extract/effnet_lite0": (4, 3),
        "extract/resnet29": (4, 2),  # not the wall, which has no face
    }
    grown = bytes_of(project.store, "mtcnn/boxes") + bytes_of(project.store, "media/size") - before
    assert 4 * (60 + 40) < size <= grown <= size + 40_000


def test_rows_and_bytes_are_what_the_run_writes(made: Made, kuleshov: Run) -> None:
    project = made({"extract": {"views": {"flip": True}}})
    store = project.store
    assert kuleshov("-C", project.folder, "detect")[0] == 0
    faces = rows(store, "mtcnn/boxes")
    plan = forecast(project, 2)
    found = by_stage(plan)
    assert all(one.is_exact for one in plan.forecasts)
    assert (found["detect"].amount.left, found["detect"].seconds) == (0, 0)
    assert (found["align"].amount.total, found["align"].unit) == (faces, "crops")
    assert (found["extract resnet29"].amount.total, found["extract resnet29"].unit) == (2 * faces, "views of faces")
    assert found["extract effnet_lite0"].amount.total == 2 * (SCENES + 1)
    blocks = {
        "align": "dlib150/pixels",
        "extract resnet29": "resnet29/embedding",
        "extract effnet_lite0": "effnet_lite0/pooled",
    }
    before = {stage: (rows(store, name), bytes_of(store, name)) for stage, name in blocks.items()}
    assert all(count > 0 for count, _ in before.values())
    for stage in ("align", "extract"):
        assert kuleshov("-C", project.folder, stage)[0] == 0
    for stage, name in blocks.items():
        amount = found[stage].amount
        assert amount.left == rows(store, name) - before[stage][0] > 0, stage
        grown = bytes_of(store, name) - before[stage][1]
        assert amount.size <= grown <= amount.size + 20_000, "a shard's description"
    assert forecast(project, 2).is_done


def test_the_command_says_what_is_left_until_nothing_is(made: Made, kuleshov: Run) -> None:
    project = made()
    status, said, err = kuleshov("-C", project.folder, "plan", "--items", "2")
    assert (status, err) == (0, "")
    first, head, *table = said.splitlines()
    assert first == "plan: 2 samples were computed and timed; the store keeps their rows"
    assert head.split() == ["STAGE", "LEFT", "OF", "EACH", "TIME", "SIZE"]
    assert re.match(r"detect +5 +7  photos +[\d.]+ ms +[\d.]+ (s|min) +[\d.]+ k?B$", table[0])
    assert re.match(r"align +~\d+ +~\d+  crops ", table[1])
    assert re.match(r"total +about [\d.]+ (s|min) +about [\d.]+ [kM]B$", table[4])
    assert re.match(r"starting \(libraries, processes, networks\): up to [\d.]+ (s|min) more a command$", table[5])
    assert len(table) == 6
    _, said, _ = kuleshov("-C", project.folder, "plan", "--items", "9")
    assert said.splitlines()[0].startswith("plan: 5 samples were computed"), "the first two are not computed again"
    assert said.splitlines()[1:] == ["plan: everything is in the store"]
    shutil.rmtree(project.folder / "photos")  # whoever opens one fails
    before = files_of(project.store)
    status, said, err = kuleshov("-C", project.folder, "plan")
    assert (status, said, err) == (0, "plan: everything is in the store\n", "")
    assert files_of(project.store) == before


def test_photos_that_cannot_be_read_are_counted(made: Made, kuleshov: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "photos" / "gone.png").write_bytes(b"soon gone")
    project = made()
    (tmp_path / "photos" / "gone.png").unlink()
    status, said, err = kuleshov("-C", project.folder, "plan", "--items", "9")
    assert (status, err) == (0, "")
    assert said.splitlines()[0].endswith("; 2 could not be read (missing 1, truncated 1)")
    assert "7 samples were computed" in said
    assert re.search(r"^detect +1 +9  photos ", said, re.M), "the broken one is remembered, the missing one is not"


def test_photos_that_are_gone_after_detection(made: Made, kuleshov: Run) -> None:
    project = made()
    assert kuleshov("-C", project.folder, "detect")[0] == 0
    (project.folder / "photos" / "3.png").unlink()
    plan = forecast(project, 7)
    assert plan.failed.reasons() == {"missing": 1}
    assert by_stage(plan)["extract resnet29"].amount.left == by_stage(plan)["align"].amount.left > 0


def test_where_only_what_cannot_be_read_is_lacking_nothing_is_left(made: Made, kuleshov: Run) -> None:
    project = made()
    (project.folder / "photos" / "3.png").unlink()
    assert kuleshov("-C", project.folder, "plan", "--items", "9")[0] == 0
    expected = "plan: 1 could not be read (missing 1)\nplan: everything is in the store\n"
    assert kuleshov("-C", project.folder, "plan") == (0, expected, "")


def test_if_all_fail_the_remedy_is_named(made: Made, kuleshov: Run) -> None:
    project = made()
    for path in (project.folder / "photos").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 3 samples .* \(0: missing: .*kuleshov detect"):
        forecast(project, 3)
    status, out, err = kuleshov("-C", project.folder, "plan")
    assert (status, out, len(err.splitlines())) == (1, "", 1)


def test_an_empty_or_missing_manifest(made: Made, kuleshov: Run) -> None:
    project = made()
    Manifest(()).write(project.artifacts / "manifest.csv")
    with pytest.raises(DataError, match="has no samples; run kuleshov index"):
        forecast(project, 1)
    (project.artifacts / "manifest.csv").unlink()
    with pytest.raises(MissingInputError, match="kuleshov index"):
        forecast(Project(project.folder), 1)
    status, out, err = kuleshov("-C", project.folder, "plan")
    assert (status, out) == (1, "")
    assert "kuleshov index" in err
    assert kuleshov("-C", project.folder, "plan", "--items", "0")[0] == 2


def test_roles_without_weights_are_said(made: Made, kuleshov: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    project = made()
    monkeypatch.setenv("KULESHOV_WEIGHTS", str(project.folder / "nothing"))
    status, said, _ = kuleshov("-C", project.folder, "plan", "--items", "9")
    assert status == 0
    assert "everything is in the store but for what is below" in said
    assert re.search(r"^not planned: extract resnet29: .*weights", said, re.M)


def test_a_block_of_two_roles_is_counted_once(made: Made) -> None:
    one = {"backbone": "effnet_lite0", "taps": ["pooled"]}
    project = made({"extract": {"backbones": {"a": one, "b": one}}})
    plan = forecast(project, 2)
    found = by_stage(plan)
    assert not any(line.startswith("~0") for line in lines(plan)), "nobody asks for faces"
    assert (found["extract a"].amount.left, found["extract a"].amount.total) == (5, 7)
    assert found["extract b"].amount == Amount()
    assert found["extract b"].seconds == 0


def test_no_face_so_far(made: Made, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (60 + number, 40), "white").save(tmp_path / "photos" / f"-{number}.png")
    plan = forecast(made(), 1)
    assert by_stage(plan)["align"].amount == Amount()
    assert "~0: no face was found so far, so that none can be expected; try more --items" in lines(plan)


def test_clips_are_expected_until_somebody_looked(made: Made, kuleshov: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(3):
        clip = plan_clip(0, index)
        clip = replace(clip, places=clip.places[:5], expressions=clip.expressions[:5])
        write_clip(tmp_path / "photos" / f"clip{index}.mp4", clip)
    project = made({"detect": {"clips": {"count": 4}, "min_face_size": 40}})
    plan = forecast(project, 2)
    assert plan.samples == 2, "a photo and a clip"
    found = by_stage(plan)
    detect = found["detect"]
    assert (detect.amount.left, detect.amount.total, detect.unit, detect.is_exact) == (6 + 8, 7 + 12, "frames", False)
    assert kuleshov("-C", project.folder, "detect")[0] == 0
    faces = rows(project.store, "mtcnn/boxes")
    found = by_stage(forecast(project, 2))
    assert found["detect"].amount.left == 0
    assert all(one.is_exact for one in found.values())
    assert found["extract resnet29"].amount.total == faces
    assert found["extract effnet_lite0"].amount.total == 7 + 12


def test_choice() -> None:
    samples = [Sample(str(i), "p", "image", (), "train", "", "", (), "") for i in range(100)]
    some, none, few = choose([samples, [], samples[:3]], 8)
    assert none == []
    assert [sample.sample_id for sample in some] == ["0", "14", "28", "42", "57", "71", "85", "99"]
    assert [sample.sample_id for sample in few] == ["0"]
    assert choose([samples[:3]], 8) == [samples[:3]]
    assert choose([samples], 1) == [samples[:1]]


def test_the_first_sample_with_work_is_not_timed(made: Made) -> None:
    project = made()
    wall, *scenes = (project.manifest.by_id[name] for name in ("wall", "0", "1", "2", "3"))
    found = role_plans(project, boxes_spec(project.params.detect).key)[0]
    roles, ledger = distinct_roles(found), Ledger("plan")
    [photos, others], start_s = time_samples(project, [[wall, *scenes[:3]], scenes[3:]], roles, ledger)
    faces = [_faces(project, scene) for scene in scenes]
    assert min(faces) > 0
    assert photos.spent["detect"].items == 3
    assert others.spent["detect"].items == 1
    assert photos.spent["align"].items == faces[2], "the wall has no face, so the next two come together"
    assert photos.spent["extract resnet29"].items == faces[2]
    assert others.spent["extract resnet29"].items == faces[3]
    assert start_s > 0
    [nothing], _ = time_samples(project, [scenes], roles, ledger)
    assert nothing.spent == {}
    [only], _ = time_samples(project, [[project.manifest.by_id["4"]]], roles, ledger)
    assert only.spent["detect"].items == 1, "better than nothing"


def _faces(project: Project, sample: Sample) -> int:
    boxes = project.store.open(boxes_spec(project.params.detect))
    return int(boxes.count([item_key(sample.content, region=FACES)])[0])


def test_time_is_shared_between_roles_without_loading_and_padding() -> None:
    plans = [RolePlan(role, get_spec("resnet29"), None, {}, None) for role in ("a", "b", "c")]
    spent = {"load": Spent(5.0), "forward/a": Spent(2.0, 24), "forward/b": Spent(1.0, 8)}
    timed = shared([Role(plan, []) for plan in plans], Timings(spent), wall_s=8.4, batch=16)
    assert timed.load_s == 5.0
    assert timed.each("extract a") == pytest.approx((2.0 * 24 / 32 + 0.4 * 24 / 32) / 24)
    assert timed.each("extract b") == pytest.approx((1.0 * 8 / 16 + 0.4 * 8 / 32) / 8)
    assert timed.each("extract c") is None


def test_lines_for_people() -> None:
    forecasts = [
        Forecast("detect", "photos", Amount(1000, 2000, 1e6), True, 180.0),
        Forecast("extract a", "faces", Amount(10, 20, 5e6), False, None, is_compressed=True),
    ]
    ledger = Ledger("plan")
    said = lines(Plan(forecasts, 1, ledger, 12.0, {"b": "its weights are missing"}))
    assert said[0].startswith("plan: 1 sample was computed")
    assert said[2].split() == ["detect", "1,000", "2,000", "photos", "180", "ms", "3", "min", "1.0", "MB"]
    assert said[3].split() == ["extract", "a", "~10", "~20", "faces", "?", "?", "<", "5.0", "MB"]
    assert said[4].split() == ["total", "about", "3", "min", "+", "?", "about", "6.0", "MB"]
    assert said[5:] == [
        "starting (libraries, processes, networks): up to 12 s more a command",
        "?: none of the samples had something for this stage; try more --items",
        "not planned: extract b: its weights are missing",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.04 s"), (3, "3 s"), (42.4, "42 s"), (119, "119 s"), (204, "3.4 min"), (3000, "50 min"), (8640, "2.4 h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
    assert duration(86400 * 12) == "12 d"
