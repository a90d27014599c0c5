import numpy as np
import pytest
from PIL import Image

from stages.index.drawn.settings import SETTINGS, draw_setting


def place(setting: str, seed: int) -> np.ndarray:
    image = Image.new("RGB", (320, 240), (255, 0, 255))
    draw_setting(image, setting, np.random.default_rng(seed), 2)
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_place_covers_the_picture_and_varies(setting: str) -> None:
    pictures = [place(setting, seed) for seed in range(8)]
    assert all((picture != (255, 0, 255)).any(axis=2).all() for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 8
    assert (place(setting, 3) == pictures[3]).all()


def test_the_palette_alone_tells_indoors_from_outdoors() -> None:
    warmth = {
        setting: [float((p[:, :, 0] - p[:, :, 2]).mean()) for p in (place(setting, seed) for seed in range(20))]
        for setting in SETTINGS
    }
    assert min(warmth["indoor"]) > max(warmth["outdoor"]) + 10


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(KeyError, match="moon"):
        place("moon", 0)
