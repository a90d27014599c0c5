"""Training: it learns, it is the same each time and when it is killed, and what stops it says what to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.backbones.spec import BackboneSpec, Tap
from stages.errors import DataError, SettingError, WeightsError
from stages.finetune.batch import Draw, PixelBatch
from stages.finetune.checkpoint import FILE, data_hash, load, save_parts
from stages.finetune.loop import Every, fit
from stages.finetune.network import Backbone, EndToEnd, Finetuned, class_weights
from stages.finetune.settings import FinetuneSettings
from stages.heads.batch import HeadBatch, HeadOutput
from stages.heads.margins import classifier

ROOT = Path(__file__).parents[3]
CLASSES = ("red", "blue")
WIDTH = 6
SPEC = BackboneSpec(
    name="tiny",
    family="tiny",
    weights="tiny",
    licence="none",
    paper="none",
    input="face",
    template="box48",
    input_size=(8, 8),
    crop_size=(10, 10),
    colour="RGB",
    mean=(127.5,) * 3,
    std=(127.5,) * 3,
    taps=(Tap("pooled", "face", (WIDTH,)),),
)


class Tiny(nn.Module):
    """A convolution, batch norm where wanted, ReLU, mean."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 3)
        self.norm = nn.BatchNorm2d(WIDTH) if norm else nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"pooled": self.norm(self.conv(x)).relu().mean((2, 3))}


class Greedy(Tiny):
    """Takes more than any machine has."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x.new_empty(2**48, *x.shape[1:]))


@dataclass
class Colours:
    """Reddish and bluish pictures of 10x10 px with noise; a random view is a random 8x8 of it, perhaps mirrored."""

    count: int = 24
    seed: int = 0
    faces_of: Callable[[int], int] = lambda row: 1
    flipped_labels: bool = False
    at: dict[tuple[int, int], Callable[[], None]] = field(default_factory=dict)
    """What is done before batch (epoch, batch) is handed out."""
    judged: Callable[[], None] = lambda: None
    """What is done before a batch is handed out in its plain view."""

    def __post_init__(self) -> None:
        noise = np.random.default_rng(self.seed)
        truth = np.arange(self.count) % 2
        self.labels = 1 - truth if self.flipped_labels else truth
        self.pictures = noise.integers(0, 160, (self.count, 3, 10, 10, 3), dtype=np.uint8)
        self.pictures[truth == 0, ..., 0] += 90
        self.pictures[truth == 1, ..., 2] += 90

    def __len__(self) -> int:
        return self.count

    def view(self, row: int, face: int, draw: Draw | None) -> np.ndarray:
        if draw is None:
            return self.pictures[row, face, 1:9, 1:9]
        chance = np.random.default_rng((*draw, row, face))
        top, left, flip = chance.integers(3), chance.integers(3), chance.integers(2)
        shown = self.pictures[row, face, top : top + 8, left : left + 8]
        return shown[:, ::-1] if flip else shown

    def batches(self, order: np.ndarray, size: int, draw: Draw | None, skip: int = 0) -> Iterator[PixelBatch]:
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [np.concatenate(parts[-2:])]
        for number, rows in enumerate(parts):
            if number < skip:
                continue
            (self.judged if draw is None else self.at.get((draw.epoch, number), lambda: None))()
            owner = np.repeat(np.arange(len(rows)), [self.faces_of(row) for row in rows.tolist()])
            within = [face for row in rows.tolist() for face in range(self.faces_of(row))]
            views = [self.view(int(rows[of]), face, draw) for of, face in zip(owner, within, strict=True)]
            faces = np.stack(views) if views else np.zeros((0, 8, 8, 3), np.uint8)
            yield PixelBatch(
                torch.from_numpy(faces),
                torch.from_numpy(owner),
                torch.zeros(0, 8, 8, 3, dtype=torch.uint8),
                torch.from_numpy(self.labels[rows]),
                torch.from_numpy(rows),
                torch.zeros(len(owner), 4),
            )


def asked(**said: Any) -> FinetuneSettings:
    values: dict[str, Any] = {
        "backbone": "tiny",
        "unit": "face",
        "batch_size": 6,
        "learning_rate": 0.05,
        "device": "cpu",
    }
    if "iterations" not in said:
        values["epochs"] = 3
    return FinetuneSettings.model_validate(values | said)


def network(settings: FinetuneSettings, net: Callable[[], nn.Module] = Tiny) -> Finetuned:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        backbone = Backbone(net(), SPEC, SPEC.taps[0], freeze_norm=settings.freeze_norm)
        layer = settings.classifier
        last = classifier(layer.kind, WIDTH, len(CLASSES), layer.margin, layer.schedule)
    return Finetuned(backbone, last, settings.unit, CLASSES, settings.dropout)


def trained(folder: Path, settings: FinetuneSettings, train: Colours | None = None, **rest: Any) -> dict[str, Tensor]:
    """The weights after training."""
    made = network(settings)
    fit(made, train or Colours(), rest.pop("val", None), settings, folder, **rest)
    return made.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


RANDOM = {
    "classifier": {"kind": "l_softmax", "margin": 3},
    "dropout": 0.4,
    "momentum": 0.9,
    "epochs": 3,
    "accumulate": 2,
}
"""Everything that has a state: dropout, momentum, lambda, batch norm, gradients of several batches."""


def run_child(folder: str, threads: str, epoch: str, batch: str, kill_in: str) -> None:
    """Train in a process of its own, which is killed at a batch, or while it writes the first checkpoint after it."""
    torch.set_num_threads(int(threads))
    replace = os.replace

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def in_the_write() -> None:
        os.replace = lambda *_: kill()

    settings = asked(**RANDOM)
    train = Colours(22, at={(int(epoch), int(batch)): kill if kill_in == "step" else in_the_write})
    fit(network(settings), train, None, settings, Path(folder), every=Every(iterations=1))
    os.replace = replace


def kill_once(folder: Path, epoch: int, batch: int, kill_in: str) -> None:
    arguments = (str(folder), str(torch.get_num_threads()), str(epoch), str(batch), kill_in)
    command = f"import test_loop; test_loop.run_child{arguments}"
    places = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    ended = subprocess.run([sys.executable, "-c", command], env={**os.environ, "PYTHONPATH": places}, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    settings = asked(**RANDOM)
    whole, again = network(settings), network(settings)
    history = fit(whole, Colours(22), None, settings, tmp_path / "whole")
    kill_once(tmp_path / "killed", epoch=1, batch=2, kill_in="step")
    found = torch.load(tmp_path / "killed" / FILE, weights_only=True)
    assert (found["epoch"], found["batch"], found["iteration"]) == (1, 2, 3)  # in the middle: 4 batches, 2 a step
    kill_once(tmp_path / "killed", epoch=2, batch=0, kill_in="write")
    assert torch.load(tmp_path / "killed" / FILE, weights_only=True)["iteration"] == 4
    assert fit(again, Colours(22), None, settings, tmp_path / "killed") == history
    wanted, got = (save_parts(tmp_path / name, net.parts(), {}) for name, net in (("a", whole), ("b", again)))
    assert {name: path.read_bytes() for name, path in wanted.items()} == {
        name: path.read_bytes() for name, path in got.items()
    }


def test_same_seed_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    settings = asked(**RANDOM)
    before = torch.get_rng_state()
    first = trained(tmp_path / "a", settings)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)  # what others draw has no influence
    assert same(first, trained(tmp_path / "b", settings))
    other = network(settings)
    fit(other, Colours(), None, asked(**RANDOM, seed=1), tmp_path / "c")  # from the same weights
    assert not same(first, other.state_dict())


def test_it_learns_two_colours(tmp_path: Path) -> None:
    settings = asked(epochs=6)
    made = network(settings)
    history = fit(made, Colours(40), Colours(40, seed=9), settings, tmp_path)
    assert (history.epochs[-1].val_accuracy or 0) > 0.95
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert not made.training


def test_a_photos_faces_learn_together_and_one_without_a_face_does_not_count(tmp_path: Path) -> None:
    settings = asked(unit="faces", epochs=8, learning_rate=0.1)
    train = Colours(40, faces_of=lambda row: row % 4)
    some = Colours(40, faces_of=lambda row: row % 4, seed=0)
    without = np.arange(40) % 4 == 0
    some.labels = np.where(without, 1 - some.labels, some.labels)  # their labels change nothing
    assert same(trained(tmp_path / "a", settings, train), trained(tmp_path / "b", settings, some))
    made = network(settings)
    history = fit(made, train, Colours(40, seed=9, faces_of=lambda row: row % 4), settings, tmp_path / "c")
    assert (history.epochs[-1].val_accuracy or 0) > 0.95


@pytest.mark.parametrize("unit", ["face", "faces"])
def test_accumulated_batches_step_as_a_large_one(tmp_path: Path, unit: str) -> None:
    """Of 24 samples 4 x 3 and 1 x 12 at once, with a mean over answers that differ in number."""
    results = []
    for size, parts in ((3, 4), (12, 1)):
        settings = asked(unit=unit, batch_size=size, accumulate=parts, epochs=2, momentum=0.9, class_weights="balanced")
        made = network(settings, lambda: Tiny(norm=False))
        fit(made, Colours(24, faces_of=lambda row: (row * 2) % 3), None, settings, tmp_path / f"{size}")
        results.append(made.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("unit", ["face", "faces"])
@pytest.mark.parametrize("faces_of", [lambda row: 1, lambda row: row % 4])
def test_one_step_is_what_torch_does(tmp_path: Path, unit: str, faces_of: Callable[[int], int]) -> None:
    """The mean is that of the answers, of which there are fewer than samples, or more."""
    settings = asked(iterations=1, batch_size=24, class_weights="balanced", momentum=0.0, weight_decay=0.01, unit=unit)
    train = Colours(24, faces_of=faces_of)
    train.labels[:10] = 0
    made, plain = network(settings), network(settings)
    fit(made, train, None, settings, tmp_path)
    order = np.random.default_rng((0, 0)).permutation(24)
    batch = next(train.batches(order, 24, Draw(0, 0)))
    weights = torch.from_numpy(24 / (2 * np.bincount(train.labels))).float()
    has_face = torch.isin(torch.arange(24), batch.owner)
    labels = batch.labels[batch.owner] if unit == "face" else batch.labels[has_face]
    logits = plain(batch) if unit == "face" else plain(batch)[has_face]
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.05, weight_decay=0.01)
    (nn.functional.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean().backward()
    optimiser.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, made.state_dict()[name], atol=1e-6, rtol=0)


class Each(nn.Module):
    """A head that is trained by every face's answer, and by the size of its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, given: HeadBatch) -> HeadOutput:
        each, mask = self.classify(given.faces), given.face_mask.float()
        shares = mask / mask.sum(1, keepdim=True).clamp_min(1)
        logits = (each * shares.unsqueeze(2)).sum(1)
        return HeadOutput(logits, shares, penalty=logits.square().sum(1), answers=each, shares=shares)


def test_what_a_head_asks_for_beside_its_loss_counts(tmp_path: Path) -> None:
    """As in `train`: its own answers in the place of the logits, and its penalty."""
    settings = asked(iterations=1, batch_size=24, class_weights="balanced", momentum=0.0, unit="faces")
    train = Colours(24, faces_of=lambda row: row % 4)
    train.labels[:10] = 0
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(EndToEnd(Each(), Backbone(Tiny(), SPEC, SPEC.taps[0]), None, CLASSES))
    made, plain = nets
    history = fit(made, train, None, settings, tmp_path)
    order = np.random.default_rng((0, 0)).permutation(24)
    batch = next(train.batches(order, 24, Draw(0, 0)))
    assert plain.faces is not None
    each = plain.head.classify(plain.faces(batch.faces))
    weights = torch.from_numpy(24 / (2 * np.bincount(train.labels))).float()
    total = torch.zeros(())
    for sample in range(24):
        mine, label = each[batch.owner == sample], int(batch.labels[sample])
        if len(mine):
            loss = -torch.log_softmax(mine, 1)[:, label].mean() + mine.mean(0).square().sum()
            total = total + loss * weights[label]
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.05)
    (total / 24).backward()
    optimiser.step()
    assert history.epochs[0].loss == pytest.approx(float(total.detach()) / 24, rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, made.state_dict()[name], atol=1e-6, rtol=0)


def test_balanced_weights_have_mean_one() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = class_weights(labels, 3)
    torch.testing.assert_close(weights, torch.tensor([6 / 9, 2.0, 1.0]))
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_frozen_batch_norm_stays_as_it_was(tmp_path: Path) -> None:
    settings = asked(freeze_norm=True, weight_decay=0.1)
    before = {name: value.clone() for name, value in network(settings).state_dict().items()}
    after = trained(tmp_path, settings)
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {f"backbone.net.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")} | {
        "backbone.net.norm.num_batches_tracked"
    }


@pytest.mark.parametrize(("rates", "stays"), [((0.05, 1e-30), "last_layer"), ((1e-30, 0.05), "backbone.net.conv")])
def test_the_last_layer_has_a_rate_of_its_own(tmp_path: Path, rates: tuple[float, float], stays: str) -> None:
    settings = asked(learning_rate=rates[0], head_learning_rate=rates[1])
    before = {name: value.clone() for name, value in network(settings).state_dict().items()}
    after = trained(tmp_path, settings)
    for name, value in before.items():
        if name.startswith(stays):
            assert torch.equal(value, after[name])
    moved = "backbone.net.conv.weight" if stays == "last_layer" else "last_layer.weight"
    assert not torch.equal(before[moved], after[moved])


def test_the_rates_follow_the_schedule(tmp_path: Path) -> None:
    settings = asked(epochs=4, head_learning_rate=0.5, schedule={"kind": "steps", "every": 2})
    history = fit(network(settings), Colours(), None, settings, tmp_path, every=Every(log=3))
    assert [row.learning_rate for row in history.epochs] == pytest.approx([0.05, 0.05, 0.005, 0.005])
    assert [row.head_learning_rate for row in history.epochs] == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert [row.iteration for row in history.steps] == [3, 6, 9, 12, 15]
    assert [row.epoch for row in history.steps] == [1, 2, 3, 3, 4]
    history.write(tmp_path)
    assert (tmp_path / "epochs.csv").read_text().splitlines()[0].startswith("epoch,iteration,loss,accuracy,")
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 6


def test_it_ends_after_the_iterations_asked_for(tmp_path: Path) -> None:
    settings = asked(iterations=6)  # 4 an epoch
    history = fit(network(settings), Colours(), None, settings, tmp_path)
    assert [(row.epoch, row.iteration) for row in history.epochs] == [(1, 4), (2, 6)]
    assert load_plain(tmp_path)["finished"]


def load_plain(folder: Path) -> dict[str, Any]:
    return torch.load(folder / FILE, weights_only=True)


def test_a_last_sample_alone_joins_the_batch_before(tmp_path: Path) -> None:
    settings = asked(epochs=1)
    history = fit(network(settings), Colours(13), None, settings, tmp_path)
    assert history.epochs[0].iteration == 2


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    settings = asked(patience=1, epochs=3)
    first, second = network(settings), network(settings)
    history = fit(first, Colours(), Colours(seed=4), settings, tmp_path)
    stop = Colours(at={(epoch, 0): lambda: pytest.fail("trained again") for epoch in range(4)})
    assert fit(second, stop, Colours(seed=4), settings, tmp_path) == history
    assert same(first.state_dict(), second.state_dict())


def test_judging_changes_no_weights(tmp_path: Path) -> None:
    settings = asked(**RANDOM)
    assert same(trained(tmp_path / "a", settings), trained(tmp_path / "b", settings, val=Colours(seed=3)))


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    """Judged on flipped labels, more training is worse."""
    settings = asked(epochs=30, patience=2, learning_rate=0.2)
    made, val = network(settings), Colours(seed=3, flipped_labels=True)
    history = fit(made, Colours(), val, settings, tmp_path)
    losses = [row.val_loss for row in history.epochs if row.val_loss is not None]
    assert history.stopped_early
    assert history.best_epoch is not None
    assert len(losses) == history.best_epoch + 2 < 30
    assert losses.index(min(losses)) == history.best_epoch - 1
    batch = next(val.batches(np.arange(24), 24, None))
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(made(batch), batch.labels)
    assert float(loss) == pytest.approx(min(losses), abs=1e-6)


def test_bfloat16_learns_and_keeps_float32_weights(tmp_path: Path) -> None:
    settings = asked(epochs=6, compute="bfloat16")
    made = network(settings)
    history = fit(made, Colours(40), Colours(40, seed=9), settings, tmp_path)
    assert (history.epochs[-1].val_accuracy or 0) > 0.95
    assert {value.dtype for value in made.parameters()} == {torch.float32}
    assert not same(made.state_dict(), trained(tmp_path / "full", asked(epochs=6), Colours(40)))


ALONE = "KULESHOV_TEST_ALONE"
alone = pytest.mark.skipif(ALONE not in os.environ, reason="runs in a process of its own, see the test below")
"""A real signal in a process in which many other files' tests have run ended that process now and then."""


def test_ctrl_c_in_a_process_of_its_own() -> None:
    here = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-m",
        "",
        "-k",
        "ctrl_c and not own",
    ]
    done = subprocess.run(here, env=os.environ | {ALONE: "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Presses Ctrl-C, in a process where it means what it does in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@alone
def test_ctrl_c_writes_a_checkpoint_and_goes_out(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    settings = asked(**RANDOM)
    whole = trained(tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", settings, Colours(at={(1, 1): ctrl_c}))
    found = load_plain(tmp_path / "cut")
    assert (found["epoch"], found["batch"], found["iteration"]) == (1, 2, 3)  # the step was ended
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert same(trained(tmp_path / "cut", settings), whole)


@alone
def test_ctrl_c_while_judging_ends_the_epoch(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    val = Colours(6, judged=ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, asked(), val=val)
    found = load_plain(tmp_path)
    assert (found["epoch"], found["batch"], len(found["history"]["epochs"])) == (1, 0, 1)


@alone
def test_a_second_ctrl_c_goes_out_at_once(tmp_path: Path, ctrl_c: Callable[[], None]) -> None:
    def twice() -> None:
        ctrl_c()
        ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, asked(), Colours(at={(1, 1): twice}))
    assert load_plain(tmp_path)["iteration"] == 4  # that of the first epoch's end


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    settings = asked(classifier={"kind": "l_softmax"}, head_learning_rate=0.05, epochs=3)
    bad = network(settings)
    train = Colours(at={(1, 1): lambda: spoil(bad)})
    with pytest.raises(SettingError) as caught:
        fit(bad, train, None, settings, tmp_path)
    said = str(caught.value)
    assert re.search(
        r"the loss is nan in step 6, epoch 2; the last good checkpoint is .*checkpoint.pt, of step 4", said
    )
    assert "lower learning_rate (0.05) or head_learning_rate (0.05), or raise classifier.schedule.floor" in said
    assert "\n" not in said
    assert all(bool(value.isfinite().all()) for value in load_plain(tmp_path)["network"].values())
    whole = trained(tmp_path / "whole", settings)
    assert same(trained(tmp_path, settings), whole)


def spoil(made: Finetuned) -> None:
    with torch.no_grad():
        next(made.parameters())[0] = float("nan")


def test_a_rate_too_high_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    """One step makes the weights infinite while the loss is still a number."""
    settings = asked(batch_size=24, learning_rate=1e38, epochs=1, weight_decay=0.9)
    made, train = network(settings), Colours()
    train.pictures[:] = 255
    with torch.no_grad():
        made.backbone.net.get_parameter("conv.weight").fill_(1e3)
    with pytest.raises(
        SettingError, match=r"a weight is no number .*; there is no checkpoint yet; lower learning_rate"
    ):
        fit(made, train, None, settings, tmp_path)
    assert not (tmp_path / FILE).exists()


def test_too_little_memory_names_a_smaller_batch(tmp_path: Path) -> None:
    settings = asked(batch_size=12, accumulate=3)
    with pytest.raises(SettingError) as caught:
        fit(network(settings, Greedy), Colours(), None, settings, tmp_path)
    assert str(caught.value) == (
        "batch_size 12 does not fit into the memory of cpu: use 6, and accumulate 6 for steps as large"
    )
    settings = asked(batch_size=2)
    with pytest.raises(SettingError, match=r"batch_size 2 .* it is the smallest: take a smaller backbone"):
        fit(network(settings, Greedy), Colours(), None, settings, tmp_path)


def test_an_error_of_another_kind_goes_out_as_it_is(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        trained(tmp_path, asked(), Colours(at={(0, 1): broken}))


def test_a_checkpoint_of_other_settings_or_data_is_refused(tmp_path: Path) -> None:
    hashes = {"train": data_hash(["a", "b"], np.array([0, 1]))}
    trained(tmp_path, asked(), about=hashes)
    with pytest.raises(SettingError, match=r"momentum was 0.9 and is 0.5.*schedule.kind was constant and is restarts"):
        trained(tmp_path, asked(momentum=0.5, schedule={"kind": "restarts"}), about=hashes)
    with pytest.raises(SettingError, match="seed was 0 and is 1; set that back"):
        trained(tmp_path, asked(seed=1), about=hashes)
    other = {"train": data_hash(["a", "b"], np.array([1, 1]))}
    with pytest.raises(
        SettingError, match=r"train was .* and is .*; set that back, or remove it to train from the start"
    ):
        trained(tmp_path, asked(), about=other)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    settings = asked()
    trained(tmp_path, settings)
    with pytest.raises(WeightsError, match=r"unexpected: backbone\.net\.norm\.bias"):
        fit(network(settings, lambda: Tiny(norm=False)), Colours(), None, settings, tmp_path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"patience": 2}, "patience is 2, and there is no split val"),
        ({"compute": "float16"}, "compute is float16, which is for CUDA devices: use bfloat16 or float32 on cpu"),
    ],
)
def test_settings_that_cannot_be_used_here(tmp_path: Path, said: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        trained(tmp_path, asked(**said))


def test_a_class_without_a_sample_and_too_few_samples(tmp_path: Path) -> None:
    train = Colours(6)
    train.labels = np.array([0, 0, -1, 0, 0, -1])
    with pytest.raises(DataError, match="blue"):
        trained(tmp_path, asked(), train)
    train.labels = np.array([-1, -1, -1, 0, -1, -1])
    with pytest.raises(DataError, match="1 samples to train on"):
        trained(tmp_path, asked(), train)


def test_samples_without_a_class_neither_train_nor_judge(tmp_path: Path) -> None:
    """The pictures of the others may be anything."""
    settings, results = asked(), []
    for name in ("a", "b"):
        train, val = Colours(24), Colours(24, seed=5)
        for some in (train, val):
            some.labels = np.where(np.arange(24) < 12, some.labels, -1)
            if name == "b":
                some.pictures[12:] = 7
        made = network(settings)
        history = fit(made, train, val, settings, tmp_path / name)
        assert history.epochs[-1].iteration == 6
        results.append((made.state_dict(), history))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_a_validation_split_without_an_answer(tmp_path: Path) -> None:
    settings = asked(unit="faces")
    with pytest.raises(DataError, match="no sample of the validation split has an answer"):
        fit(network(settings), Colours(), Colours(faces_of=lambda row: 0), settings, tmp_path)


def test_a_checkpoint_goes_from_file_to_file(tmp_path: Path) -> None:
    trained(tmp_path, asked())
    of = load_plain(tmp_path)["of"]
    found = load(tmp_path / FILE, of)
    assert found is not None
    assert (found.iteration, found.finished) == (12, True)
