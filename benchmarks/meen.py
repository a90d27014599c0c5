"""Meen's models: the frozen face network run in the loop, beside its maps of the same views read from memory.

    python -m benchmarks.meen                                     model 1, averaged, batches of 128, one core
    python -m benchmarks.meen --kind meen:model3_separately --batch 16

A step is the face network's pass over a batch of 44x44 views, the head's pass forward and back, and that of SGD. With
cached views the first of them falls away; that its maps have to be read (51 kB a view in model 1) is not counted, so
this is what caching could save at most. Times are of the process's CPU, on one thread. The ratio is that of the median
steps, with the face network in the loop to with its maps in memory; an epoch is as many steps as `--faces` make.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from benchmarks.common import machine
from stages.backbones import registry
from stages.finetune.batch import PixelBatch
from stages.finetune.network import Backbone, EndToEnd
from stages.finetune.settings import FinetuneSettings
from stages.finetune.start import reads_of, shapes_of
from stages.heads import registry as heads
from stages.heads.batch import HeadBatch

CLASSES = tuple("abcdefg")
FACE = "vgg19_44:face"


def network_of(kind: str) -> EndToEnd:
    """The head over a face network of random weights, in training mode."""
    spec = registry.get_spec(FACE)
    said = {"backbone": FACE, "start": "weights", "freeze": True, "unit": "faces", "max_faces": 1, "epochs": 1}
    said |= {"batch_size": 2, "learning_rate": 0.01, "head": {"kind": kind}}
    reads = reads_of(FinetuneSettings.model_validate(said))
    faces = Backbone(registry.build(FACE), spec, spec.taps[-1], freeze=True)
    head = heads.build(kind, shapes_of(spec, faces, None, reads), len(CLASSES), 0.0)
    return EndToEnd(head, faces, None, CLASSES, reads).train()


def given(network: EndToEnd, batch: PixelBatch) -> HeadBatch:
    """What the head is given of a batch."""
    caught: list[HeadBatch] = []
    hook = network.head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        network.eval()(batch)
    hook.remove()
    network.train()
    return caught[0]


def main() -> None:
    """Parse the options and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", default="meen:model1", help="of a head over the face network (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="faces (default %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of each (default %(default)s)")
    parser.add_argument("--faces", type=int, default=512, help="of an epoch (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = network_of(options.kind)
    rows = torch.arange(options.batch)
    pixels = torch.randint(0, 256, (options.batch, 44, 44, 3), dtype=torch.uint8)
    batch = PixelBatch(pixels, rows, pixels[:0], rows % len(CLASSES), rows, torch.zeros(options.batch, 4))
    cached = given(network, batch)
    optimiser = torch.optim.SGD(network.groups()[1], 0.01, 0.9, weight_decay=5e-4)
    seconds: dict[str, list[float]] = {"in the loop": [], "cached": []}
    for number in range(options.steps + 1):
        for name in reversed(seconds) if number % 2 else seconds:
            start = time.process_time()
            optimiser.zero_grad(set_to_none=True)
            logits = network(batch) if name == "in the loop" else network.head(cached).logits
            torch.nn.functional.cross_entropy(logits, batch.labels).backward()
            optimiser.step()
            if number:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    print(machine())
    print(f"{options.kind}, batches of {options.batch}, {options.steps} steps")
    for name, some in seconds.items():
        epoch = median(some) * options.faces / options.batch
        print(
            f"{name:<12}{median(some):>8.2f} s a step, least {min(some):.2f}; {epoch:.1f} s for {options.faces} faces"
        )
    print(f"ratio: step {median(seconds['in the loop']) / median(seconds['cached']):.3f}")


if __name__ == "__main__":
    main()
