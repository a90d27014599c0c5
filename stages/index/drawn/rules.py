"""Which faces decide a scene's label, and how: the truth as a rule over the rows of faces.csv.

| subset  | the faces that decide |
|---------|-----------------------|
| crowd   | all |
| marked  | the one with painted cheeks |
| setting | those with glasses indoors, those without outdoors |
| largest | the three largest boxes of more than three faces, else the largest one |

The label is `positive` where the mean expression of the faces that decide is above `MARGIN`, `negative` where it is
below -`MARGIN`, else `neutral`. Drawn scenes keep a gap: the mean's distance from ±`MARGIN` is at least `GAP`.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.index.drawn.settings import INDOOR

NEGATIVE, NEUTRAL, POSITIVE = "negative", "neutral", "positive"
LABELS = (NEGATIVE, NEUTRAL, POSITIVE)
CROWD, MARKED, SETTING, LARGEST = "crowd", "marked", "setting", "largest"
SUBSETS = (CROWD, MARKED, SETTING, LARGEST)
MARGIN = 0.3
GAP = 0.1


def deciding(
    subset: str, setting: str, areas: Sequence[float], glasses: Sequence[bool], paint: Sequence[bool]
) -> list[bool]:
    """Which of a scene's faces decide.

    Args:
        subset: one of `SUBSETS`.
        setting: `indoor` or `outdoor`.
        areas: areas of the truth boxes, px².
        glasses: who wears glasses.
        paint: whose cheeks are painted.

    Returns:
        One truth value per face, in the order given.

    Raises:
        ValueError: the subset is unknown.
    """
    if subset == CROWD:
        return [True] * len(areas)
    if subset == MARKED:
        return list(paint)
    if subset == SETTING:
        return [worn == (setting == INDOOR) for worn in glasses]
    if subset == LARGEST:
        count = 3 if len(areas) > 3 else 1
        chosen = sorted(range(len(areas)), key=lambda face: -areas[face])[:count]
        return [face in chosen for face in range(len(areas))]
    raise ValueError(f"subset is {subset!r}: give one of {', '.join(SUBSETS)}")


def label_of(expressions: Sequence[float], decides: Sequence[bool]) -> str:
    """The label that the deciding faces' mean expression gives.

    Raises:
        ValueError: no face decides.
    """
    counted = [value for value, counts in zip(expressions, decides, strict=True) if counts]
    if not counted:
        raise ValueError("no face decides: a label needs at least one")
    mean = sum(counted) / len(counted)
    return POSITIVE if mean > MARGIN else NEGATIVE if mean < -MARGIN else NEUTRAL
