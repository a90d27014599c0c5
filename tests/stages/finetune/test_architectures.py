"""Each architecture of the papers, whole: a forward pass and a training step, and the memory that they take."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STEP = """
import json, resource, sys, time
import numpy as np, torch
from stages.backbones import registry
from stages.finetune.batch import PixelBatch
from stages.finetune.network import Backbone, Finetuned, choose_tap
from stages.heads.margins import classifier

name, size = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spec = registry.get_spec(name)
tap = choose_tap(spec, None)
backbone = Backbone(registry.build(name), spec, tap)
unit = "photo" if spec.input == "image" else "face"
network = Finetuned(backbone, classifier("softmax", backbone.width, 3), unit, ("a", "b", "c"))
rng = np.random.default_rng(0)
pixels = torch.from_numpy(rng.integers(0, 256, (size, *spec.input_size, 3), dtype=np.uint8))
none, rows = pixels[:0], torch.arange(size)
faces, photos = (none, pixels) if unit == "photo" else (pixels, none)
batch = PixelBatch(faces, rows[: len(faces)], photos, rows % 3, rows, torch.zeros(len(faces), 4))
start = time.process_time()
with torch.inference_mode():
    network.eval()
    logits = network(batch)
forward = time.process_time() - start
assert logits.shape == (size, 3) and torch.isfinite(logits).all()
after_forward = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network.train()
optimiser = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
watched = [p for p in network.parameters() if p.requires_grad]
copies = [p.detach().clone() for p in watched[:1] + watched[-1:]]
start = time.process_time()
loss = torch.nn.functional.cross_entropy(network(batch, batch.labels), batch.labels)
loss.backward()
optimiser.step()
step = time.process_time() - start
assert torch.isfinite(loss)
for parameter, copy in zip(watched[:1] + watched[-1:], copies):
    assert not torch.equal(parameter, copy), "the first and the last layer have moved"
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"forward_s": forward, "step_s": step, "forward_mib": (after_forward - before) / 1024,
                  "step_mib": (peak - before) / 1024, "parameters": sum(p.numel() for p in backbone.parameters())}))
"""

NAMES = (
    *("sphereface:20", "sphereface:64", "resnet_small:18", "resnet_small:34", "resnet_small:101", "bn_inception"),
    *("vgg_face", "vgg19_44:emotion", "inception_resnet_v1:vggface2", "mini_xception"),
    *("torchvision:densenet161", "torchvision:vgg19", "torchvision:resnet101", "torchvision:resnet50"),
    "torchvision:resnet18",
)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_a_forward_pass_and_a_training_step(name: str) -> None:
    """Its line is in what `make soak` prints."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, name, "4"], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    took = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name}: {took['parameters']:,} parameters; 4 pictures: forward {took['forward_s']:.2f} s, "
        f"{took['forward_mib']:.0f} MiB; training step {took['step_s']:.2f} s, {took['step_mib']:.0f} MiB"
    )
