"""Drawn stand-ins of data sets, each drawn once for all recipes of a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.errors import SettingError
from stages.index.registry import data_set, stand_in

STAND_INS = "standins"
"""In the folder of trials: has the drawn data sets."""


def stand_in_for(adapter: str, sizes: Mapping[str, Any], folder: Path, say: Callable[[str], None]) -> Path:
    """The root of a drawn data set in the layout of an adapter.

    Args:
        adapter: whose layout.
        sizes: those of its stand-in, and `seed`, by default 0. Equal sizes are the same folder.
        folder: where they are: `folder/standins/ADAPTER-DIGITS`.
        say: hears what is drawn.

    Raises:
        SettingError: the stand-in has no such size, or seed is none.
    """
    module = stand_in(adapter)
    told = {key: value for key, value in sizes.items() if key != "seed"}
    seed = sizes.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise SettingError(f"stand-in of {adapter}: seed is {seed!r}: give a whole number, 0 or more")
    try:
        plan = module.Sizes.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingError(f"stand-in of {adapter}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    name = json.dumps([adapter, plan.model_dump(mode="json"), seed], sort_keys=True)
    place = folder / STAND_INS / f"{adapter}-{sha256(name.encode()).hexdigest()[:8]}"
    if not place.exists():
        say(f"drawing a stand-in of {data_set(adapter).TITLE}")
        unfinished = place.with_name(place.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        module.write(unfinished, plan, seed)
        unfinished.rename(place)
    return place.absolute()
