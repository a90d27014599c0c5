"""What has been trained: `training.json` beside the weights, so that the same training is not done again.

Only the training counts: photos that came later, or another way of answering, need the weights and no more.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from cache.keys import canonical_json
from stages.backbones.states import load_strictly, read_state
from stages.backbones.weights import hash_file
from stages.errors import DataError
from stages.finetune import checkpoint
from stages.finetune.history import History
from stages.finetune.network import Network
from stages.finetune.settings import FinetuneSettings
from stages.whole import whole

FILE = "training.json"


def write(folder: Path, network: Network, training: Mapping[str, object], history: History) -> None:
    """Say what was trained, after its weights were written.

    Args:
        folder: of the fine-tune.
        training: `checkpoint.identity`.
    """
    weights = {part: hash_file(folder / f"{part}.safetensors") for part in network.parts()}
    about = {"training": dict(training), "weights": weights, "history": history.plain()}
    with whole(folder / FILE, durable=True) as temporary:
        temporary.write_text(canonical_json(about) + "\n", encoding="utf-8", newline="\n")


def differs(folder: Path, settings: FinetuneSettings, ignored: Collection[str] = ()) -> str:
    """What these settings say otherwise than those that were trained with; empty: nothing, or it is not known.

    Args:
        ignored: settings that may differ.
    """
    try:
        before = json.loads((folder / FILE).read_bytes())["training"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    now = json.loads(canonical_json(checkpoint.said(settings)))
    before = checkpoint.with_later(before, now)
    names = [name for name in now if name.partition(".")[0] not in ignored]
    return checkpoint.differences({n: before.get(n) for n in names}, {n: now[n] for n in names})


def read(folder: Path, network: Network, training: Mapping[str, object]) -> History | None:
    """Fill the network with the weights of an earlier run that trained the same; None: there was no such run.

    Weights that are no longer those that were written count as none.

    Args:
        folder, training: see `write`.
        network: as it starts; it is left in eval mode where it is filled.

    Raises:
        DataError: the file is not what was written.
    """
    path = folder / FILE
    try:
        about = json.loads(path.read_bytes())
        now = json.loads(canonical_json(dict(training)))
        same = checkpoint.with_later(about["training"], now) == now
        weights, history = dict(about["weights"]), History.of_plain(about["history"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}): remove it to train again") from None
    files = {part: folder / f"{part}.safetensors" for part in network.parts()}
    if not same or weights.keys() != files.keys():
        return None
    if any(not file.is_file() or hash_file(file) != weights[part] for part, file in files.items()):
        return None
    for part, module in network.parts().items():
        load_strictly(module, read_state(files[part]), files[part])
    network.eval()
    return history
