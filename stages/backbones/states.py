"""Reading state dicts: never a pickle's code, and strictly the network's keys and shapes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

import torch
from torch import nn

from stages.errors import WeightsError

_SHOWN = 4
_COUNTER = ".num_batches_tracked"
SAFETENSORS = ".safetensors"
_HELD = "net."


def is_safetensors(path: Path) -> bool:
    """Whether a file is called so; its content is not looked at."""
    return path.suffix == SAFETENSORS


def read_state(path: Path) -> MutableMapping[str, torch.Tensor]:
    """Read a state dict, `.safetensors` or torch's own format with `weights_only=True`.

    Raises:
        WeightsError: when the file holds anything else than a dict of names and tensors, or is cut short.
    """
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is no plain state dict (it asks for more than tensors, or is not a torch file): "
            "save it with torch.save(model.state_dict(), FILE) or as .safetensors"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} cannot be read as a state dict ({reason}): fetch or add it again") from error
    if not isinstance(state, MutableMapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a dict of tensors: save model.state_dict()")
    return state


def unwrapped(state: MutableMapping[str, torch.Tensor]) -> MutableMapping[str, torch.Tensor]:
    """The state of a network that families hold as `net`, named as its publisher does, from that or from the state of
    what `registry.build` returns."""
    wrapped = bool(state) and all(key.startswith(_HELD) for key in state)
    return {key.removeprefix(_HELD): value for key, value in state.items()} if wrapped else state


def load_strictly(module: nn.Module, state: MutableMapping[str, torch.Tensor], path: Path) -> None:
    """Copy a state dict into a network that has exactly its keys and shapes.

    BatchNorm's batch counters may be missing, as in old files: evaluation does not read them. Nothing is copied into a
    network whose parameters have no memory (torch's meta device): it is only compared.

    Raises:
        WeightsError: lists the first few missing, unexpected and wrongly shaped keys.
    """
    own = module.state_dict()
    for key in own.keys() - state.keys():
        if key.endswith(_COUNTER):
            state[key] = own[key]
    faults = _faults(own, state)
    if faults:
        raise WeightsError(f"{path} does not fit {type(module).__name__}: {'; '.join(faults)}")
    if not any(parameter.is_meta for parameter in module.parameters()):
        module.load_state_dict(state, strict=True)


def fill(module: nn.Module, path: Path, classifier: Sequence[str] = ()) -> None:
    """Fill a network from a state dict's file, as `load_strictly`.

    Args:
        module: whose keys and shapes the file has.
        path: see `read_state`.
        classifier: layers that files may carry beyond the network, the last ones of another task. Their weight and
            bias are left out.

    Raises:
        WeightsError: for a damaged file, one with code in it, or other keys or shapes.
    """
    state = read_state(path)
    for layer in classifier:
        state.pop(f"{layer}.weight", None)
        state.pop(f"{layer}.bias", None)
    load_strictly(module, state, path)


def _faults(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    kinds = (
        ("missing", sorted(own.keys() - state.keys())),
        ("unexpected", sorted(state.keys() - own.keys())),
        ("wrong shape", shapes),
    )
    return [f"{len(keys)} {kind}: {_few(keys)}" for kind, keys in kinds if keys]


def _few(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
