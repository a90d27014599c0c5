from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.index.drawn.rules import GAP, MARGIN, deciding, label_of
from stages.index.drawn.scenes import (
    LARGER,
    MAX_HEIGHT,
    MIN_HEIGHT,
    REACH_DOWN,
    REACH_UP,
    REACH_X,
    SIZES,
    ScenePlan,
    draw_scene,
    plan_scene,
    scene_cell,
)

Box = tuple[float, float, float, float]


def meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def boxes(plan: ScenePlan) -> list[Box]:
    return [face.truth.box for face in plan.faces]


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def test_every_label_follows_from_the_rule_with_a_gap(plans: list[ScenePlan]) -> None:
    for plan in plans:
        truths = [face.truth for face in plan.faces]
        chosen = deciding(
            plan.cell.subset,
            plan.setting,
            [area(truth.box) for truth in truths],
            [truth.glasses for truth in truths],
            [truth.paint for truth in truths],
        )
        values = [truth.expression for truth in truths]
        assert [face.decides for face in plan.faces] == chosen, plan.name
        assert label_of(values, chosen) == plan.cell.label, plan.name
        mean = np.mean([value for value, counts in zip(values, chosen, strict=True) if counts])
        assert abs(abs(mean) - MARGIN) >= GAP, plan.name


def test_faces_lie_apart_and_inside_the_picture(plans: list[ScenePlan]) -> None:
    for plan in plans:
        assert plan.size in SIZES
        for box in boxes(plan):
            assert box[0] >= 0
            assert box[1] >= 0
            assert box[2] <= plan.size[0]
            assert box[3] <= plan.size[1]
            assert MIN_HEIGHT - 1e-9 <= box[3] - box[1] <= MAX_HEIGHT + 1e-9
        assert not any(meet(a, b) for a, b in combinations(boxes(plan), 2)), plan.name


def test_no_hair_reaches_into_another_face(plans: list[ScenePlan]) -> None:
    for plan in plans:
        heads = [
            (
                p.x - REACH_X * p.height,
                p.y - REACH_UP * p.height,
                p.x + REACH_X * p.height,
                p.y + REACH_DOWN * p.height,
            )
            for p in (person.place for person in plan.people)
        ]
        assert not any(meet(a, b) for a, b in combinations(heads, 2)), plan.name


def test_landmarks_lie_in_their_box(plans: list[ScenePlan]) -> None:
    for plan in plans:
        for face in plan.faces:
            x1, y1, x2, y2 = face.truth.box
            assert all(x1 < x < x2 and y1 < y < y2 for x, y in face.truth.landmarks)


def test_crowds_have_one_to_nine_faces_that_all_decide(plans: list[ScenePlan]) -> None:
    crowds = [plan for plan in plans if plan.cell.subset == "crowd"]
    assert {len(plan.people) for plan in crowds} == set(range(1, 10))
    assert all(face.decides and not face.truth.paint for plan in crowds for face in plan.faces)


def test_a_mark_is_worn_by_one_strong_face_among_contrary_ones(plans: list[ScenePlan]) -> None:
    for plan in (plan for plan in plans if plan.cell.subset == "marked"):
        (marked,) = [face.truth.expression for face in plan.faces if face.truth.paint]
        others = [face.truth.expression for face in plan.faces if not face.truth.paint]
        assert len(others) >= 2
        if plan.cell.label == "neutral":
            assert abs(marked) <= 0.15
            assert all(0.5 <= abs(value) <= 0.8 for value in others)
            assert len({value > 0 for value in others}) == 1
        else:
            assert 0.9 <= abs(marked) <= 1
            assert all(0.25 <= abs(value) <= 0.35 and value * marked < 0 for value in others)


def test_in_setting_scenes_the_other_setting_would_give_another_label(plans: list[ScenePlan]) -> None:
    for plan in (plan for plan in plans if plan.cell.subset == "setting"):
        wearers = [face.truth.glasses for face in plan.faces]
        assert any(wearers)
        assert not all(wearers)
        values = [face.truth.expression for face in plan.faces]
        assert label_of(values, [not face.decides for face in plan.faces]) != plan.cell.label
        # Sizes give nothing away: no face is clearly larger.
        heights = [person.place.height for person in plan.people]
        assert max(heights) / min(heights) < 1.3


def test_in_largest_scenes_the_small_ones_would_give_another_label(plans: list[ScenePlan]) -> None:
    counts = Counter[int]()
    for plan in (plan for plan in plans if plan.cell.subset == "largest"):
        large = [person.place.height for person in plan.people if person.decides]
        small = [person.place.height for person in plan.people if not person.decides]
        counts[len(large)] += 1
        assert len(large) == (3 if len(plan.people) > 3 else 1)
        assert min(large) >= LARGER * max(small) - 1e-9
        assert len(small) >= 1
        values = [face.truth.expression for face in plan.faces]
        assert label_of(values, [not face.decides for face in plan.faces]) != plan.cell.label
    assert set(counts) == {1, 3}


def test_only_marked_scenes_have_paint(plans: list[ScenePlan]) -> None:
    for plan in plans:
        assert sum(face.truth.paint for face in plan.faces) == (plan.cell.subset == "marked")


def test_240_scenes_are_exactly_balanced() -> None:
    cells = [scene_cell(index) for index in range(240)]
    counts = Counter((cell.subset, cell.label, cell.split) for cell in cells)
    assert set(counts.values()) == {12, 3, 5}
    for (_, _, split), count in counts.items():
        assert count == {"train": 12, "val": 3, "test": 5}[split]
    assert len(counts) == 4 * 3 * 3


@given(st.integers(24, 2000))
def test_every_prefix_is_nearly_balanced(count: int) -> None:
    cells = [scene_cell(index) for index in range(count)]
    for part, share in (("train", 0.60), ("val", 0.15), ("test", 0.25)):
        assert abs(sum(cell.split == part for cell in cells) - share * count) <= 2
    for values in (Counter(cell.subset for cell in cells), Counter(cell.label for cell in cells)):
        assert max(values.values()) - min(values.values()) <= 4


def test_settings_and_sizes_are_used_about_equally(plans: list[ScenePlan]) -> None:
    settings = Counter(plan.setting for plan in plans)
    assert min(settings.values()) > 0.4 * len(plans)
    assert {plan.size for plan in plans} == set(SIZES)


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first, again = draw_scene(5, 17), draw_scene(5, 17)
    assert first.plan == again.plan == plan_scene(5, 17)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.size == first.plan.size
    assert first.image.mode == "RGB"
    assert first.faces == first.plan.faces
    assert draw_scene(6, 17).image.tobytes() != first.image.tobytes()
    assert draw_scene(5, 18).image.tobytes() != first.image.tobytes()
    assert plan_scene(5, 17).name == "scene_00017"


@pytest.mark.parametrize("index", range(0, 24, 2))
def test_the_faces_of_a_scene_are_not_covered(index: int) -> None:
    """Each eye's landmark shows a pupil: nobody stands before it."""
    scene = draw_scene(0, index)
    pixels = np.asarray(scene.image).astype(int).sum(axis=2)
    for face in scene.faces:
        for x, y in face.truth.landmarks[:2]:
            assert pixels[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].min() < 210
