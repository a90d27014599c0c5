"""What a drawn person looks like, apart from the expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.index.drawn.canvas import Colour, mix

SKINS: tuple[Colour, ...] = (
    (246, 208, 178),
    (236, 190, 154),
    (224, 172, 132),
    (198, 142, 102),
    (160, 108, 74),
    (126, 82, 56),
)
HAIRS: tuple[Colour, ...] = (
    (28, 22, 20),
    (62, 40, 28),
    (104, 66, 38),
    (150, 98, 50),
    (206, 164, 96),
    (142, 62, 32),
    (150, 150, 154),
)
IRISES: tuple[Colour, ...] = ((74, 46, 28), (58, 38, 24), (62, 92, 60), (66, 104, 140))
CLOTHES: tuple[Colour, ...] = (
    (58, 92, 150),
    (164, 62, 58),
    (66, 128, 92),
    (222, 186, 84),
    (112, 78, 138),
    (232, 228, 218),
    (52, 56, 68),
    (214, 126, 70),
    (92, 152, 168),
)
PAINTS: tuple[Colour, ...] = ((40, 110, 255), (0, 190, 90), (235, 0, 150))
HAIR_STYLES = ("short", "parted", "fringe", "long", "bob", "bun", "curly", "buzz", "beanie")


@dataclass(frozen=True)
class FaceStyle:
    """One person's looks.

    Attributes:
        skin, hair, iris, lips, frame, clothes, accent: colours, 0..255 a channel; `frame` is the
            glasses' rim, `accent` the beanie.
        hair_style: one of `HAIR_STYLES`.
        width: half the face's width, in halves of its height (about 0.70 to 0.79).
        jaw: below 1 a fuller, at 1 a rounder, above 1 a narrower chin.
        eye: size of the eyes, about 1.
        brow: thickness of the brows, about 1.
        side: where the light comes from, -1 (left) to 1 (right).
        light: brightness of head and body, about 1.
        beard: whether the chin has a beard.
        glasses: whether the face wears glasses.
        paint: colour of the painted cheeks, or None.
    """

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    frame: Colour
    clothes: Colour
    accent: Colour
    hair_style: str
    width: float
    jaw: float
    eye: float
    brow: float
    side: float
    light: float
    beard: bool
    glasses: bool
    paint: Colour | None

    @classmethod
    def draw_lots(cls, rng: np.random.Generator, *, glasses: bool = False, paint: bool = False) -> FaceStyle:
        """Random looks. What the caller decides (`glasses`, `paint`) does not change what else is drawn."""

        def one_of(colours: tuple[Colour, ...]) -> Colour:
            return colours[int(rng.integers(len(colours)))]

        skin = one_of(SKINS)
        hair_style = HAIR_STYLES[int(rng.integers(len(HAIR_STYLES)))]
        paint_colour = one_of(PAINTS)
        return cls(
            skin=skin,
            hair=one_of(HAIRS),
            iris=one_of(IRISES),
            lips=mix(skin, (176, 58, 66), float(rng.uniform(0.5, 0.8))),
            frame=one_of(((24, 24, 28), (92, 40, 26), (30, 44, 96))),
            clothes=one_of(CLOTHES),
            accent=one_of(CLOTHES),
            hair_style=hair_style,
            width=float(rng.uniform(0.70, 0.79)),
            jaw=float(rng.uniform(0.80, 1.0)),
            eye=float(rng.uniform(0.95, 1.12)),
            brow=float(rng.uniform(0.8, 1.25)),
            side=float(rng.uniform(-1, 1)),
            light=float(rng.uniform(0.86, 1.02)),
            beard=bool(rng.random() < 0.2) and hair_style in ("short", "parted", "buzz", "beanie"),
            glasses=glasses,
            paint=paint_colour if paint else None,
        )
