"""The weights that a project's settings ask for."""

from __future__ import annotations

from pipeline.params import Params
from stages.backbones.registry import get_spec


def weights_of(settings: Params) -> dict[str, str]:
    """Catalogue weights that roles and fine-tunes start from -> the weights of their stand-in, or nothing."""
    wanted = {}
    for role, chosen in settings.extract.backbones.items():
        if chosen.finetuned is not None:
            continue
        stand_in = get_spec(chosen.stand_in).weights if chosen.stand_in else ""
        wanted[get_spec(chosen.backbone or role).weights] = stand_in
    for one in settings.finetune.values():
        wanted |= {get_spec(name).weights: "" for name in one.from_catalogue}
    return wanted
