import pytest

from stages.index.drawn.rules import deciding, label_of

AREAS = [100.0, 900.0, 400.0, 800.0, 700.0]
GLASSES = [True, False, True, False, False]
PAINT = [False, False, False, True, False]


@pytest.mark.parametrize(
    ("subset", "setting", "expected"),
    [
        ("crowd", "indoor", [1, 1, 1, 1, 1]),
        ("marked", "outdoor", [0, 0, 0, 1, 0]),
        ("setting", "indoor", [1, 0, 1, 0, 0]),
        ("setting", "outdoor", [0, 1, 0, 1, 1]),
        ("largest", "indoor", [0, 1, 0, 1, 1]),
    ],
)
def test_who_decides(subset: str, setting: str, expected: list[int]) -> None:
    assert deciding(subset, setting, AREAS, GLASSES, PAINT) == [bool(value) for value in expected]


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (2, [0, 1]), (3, [0, 1, 0]), (4, [0, 1, 1, 1])])
def test_the_largest_one_decides_among_up_to_three(count: int, expected: list[int]) -> None:
    chosen = deciding("largest", "indoor", AREAS[:count], GLASSES[:count], PAINT[:count])
    assert chosen == [bool(value) for value in expected]


def test_an_unknown_subset_is_refused() -> None:
    with pytest.raises(ValueError, match="subset is 'smallest'"):
        deciding("smallest", "indoor", AREAS, GLASSES, PAINT)


@pytest.mark.parametrize(
    ("expressions", "decides", "label"),
    [
        ([0.9, -1.0], [True, False], "positive"),
        ([0.9, -1.0], [False, True], "negative"),
        ([0.9, -1.0], [True, True], "neutral"),
        ([0.3], [True], "neutral"),
        ([0.301], [True], "positive"),
        ([-0.3], [True], "neutral"),
        ([-0.301], [True], "negative"),
    ],
)
def test_the_mean_of_those_who_decide_is_the_label(expressions: list[float], decides: list[bool], label: str) -> None:
    assert label_of(expressions, decides) == label


def test_nobody_cannot_decide() -> None:
    with pytest.raises(ValueError, match="no face decides"):
        label_of([0.5], [False])
