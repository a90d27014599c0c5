"""What decoding processes do for training."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from stages.backbones.preprocess import fit
from stages.backbones.registry import get_spec
from stages.errors import MediaError
from stages.finetune.augment import PHOTO, Views, Who
from stages.finetune.photos import PhotoJob, PhotoLook
from stages.index.clips import read_frames
from stages.index.media import open_image

SPEC = replace(get_spec("torchvision:resnet18"), input_size=(40, 32), resize_to=48)
VIEWS = Views(flip=True, crop="random", jitter=0.4)


def test_they_have_no_torch(corpus: Any) -> None:
    job = (PhotoLook(corpus.root, SPEC, VIEWS), PhotoJob(tuple(corpus.photos), None, Who(0, 0, "a.png", PHOTO)))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(job), capture_output=True, check=True)
    found = done.stdout.decode().split()
    assert "stages.finetune.photos" in found
    assert {"torch", "h5py", "pydantic"}.isdisjoint(found)


def seen(look: PhotoLook, *job: Any) -> np.ndarray:
    [found] = look(PhotoJob(*job))
    assert isinstance(found, np.ndarray)
    return found


def test_a_photo_and_a_frame(corpus: Any) -> None:
    look = PhotoLook(corpus.root, SPEC, VIEWS)
    image = open_image(corpus.root / "a.png")
    sample = corpus.manifest.by_id["a.png"]
    assert np.array_equal(seen(look, (sample,), None, None), fit(image, SPEC))
    who = Who(0, 1, "a.png", PHOTO)
    assert np.array_equal(seen(look, (sample,), None, who), VIEWS.of_photo(image, SPEC, who))
    time_us = int(corpus.detections.times["clip.mp4"][2])
    [expected] = read_frames(corpus.root / "clip.mp4", [time_us])
    assert np.array_equal(seen(look, (corpus.clip,), time_us, None), fit(expected, SPEC))


def test_what_is_wrong_comes_in_its_place(corpus: Any) -> None:
    look = PhotoLook(corpus.root, SPEC, VIEWS)
    gone = replace(corpus.photos[0], path="gone.png")
    [error] = look(PhotoJob((gone,), None, None))
    assert isinstance(error, MediaError)
    assert error.reason == "missing"
    assert np.array_equal(seen(look, (gone, corpus.photos[0]), None, None), seen(look, (corpus.photos[0],), None, None))
    [error] = look(PhotoJob((corpus.clip,), 10**9, None))
    assert isinstance(error, MediaError)
    assert error.reason == "truncated"
