"""DAG-Net's heads: equations 1 to 4 worked out again, and who counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.errors import SettingError
from stages.heads import dagnet, registry
from stages.heads.batch import HeadBatch

CLASSES, BODY, CHANNELS, SIDE = 5, 7, 4, 24
SHAPES = registry.Shapes(
    inputs={
        "body": (BODY,),
        "body_pixels": (SIDE, SIDE, 3),
        "context": (CHANNELS, 6, 4),
        "context_pixels": (SIDE, SIDE, 3),
    }
)


def make(variant: str = "dagnet", **options: Any) -> nn.Module:
    torch.manual_seed(3)
    if "width" in dagnet.OPTIONS.get(variant, registry.NoOptions).model_fields:
        options = {"width": 8, **options}
    return registry.build(f"dagnet:{variant}", SHAPES, CLASSES, 0.0, options)


def network(variant: str = "dagnet", **options: Any) -> dagnet.DagNet:
    head = make(variant, **options)
    assert isinstance(head, dagnet.DagNet)
    return head


def make_batch(counts: list[int], width: int = 3) -> HeadBatch:
    """Persons of each sample; of padding, noise."""
    noise = torch.Generator().manual_seed(5)
    mask = torch.arange(width) < torch.tensor(counts)[:, None]
    inputs = {}
    for name, shape in SHAPES.inputs.items():
        size = (*mask.shape, *shape)
        inputs[name] = (
            torch.randint(0, 256, size, generator=noise, dtype=torch.uint8)
            if len(shape) == 3 and shape[2] == 3
            else torch.randn(size, generator=noise)
        )
    none = torch.zeros(len(counts), 1, 0)
    no_face, no_photo = torch.zeros(len(counts), 1, dtype=torch.bool), torch.zeros(len(counts), 0)
    return HeadBatch(none, no_face, torch.zeros(len(counts), 1, 4), no_photo, inputs, {"person": mask})


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(8))


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def test_a_variant_reads_what_its_streams_need() -> None:
    body, around, photo = {"body", "body_pixels"}, {"context"}, {"context_pixels"}
    assert {variant: set(read) for variant, read in dagnet.INPUTS.items()} == {
        "dagnet": body | around | photo,
        "no_gcn": body | around | photo,
        "bam_gsam": body | around,
        "bam": body,
        "gsam": around,
        "lsam": photo,
        "lsam_no_gcn": photo,
        "kosti": {"body", "context"},
    }
    assert not registry.alone("dagnet:kosti")
    assert registry.alone("dagnet:bam")


def test_the_bodys_weight_is_equations_1_and_2() -> None:
    head, seen, body = dagnet.BodyAttention(), pixels(3, 3, 5, 4), pixels(3, BODY)
    found = head(body, seen)
    assert head.first.bias is not None
    assert head.second.bias is not None
    assert found.look is not None
    first, second = array(head.first.weight)[..., 0, 0], array(head.second.weight)[0, :, 0, 0]
    for i in range(3):
        total = 0.0
        for place in array(seen[i]).reshape(3, -1).T:
            total += np.maximum(first @ place + array(head.first.bias), 0) @ second + array(head.second.bias)[0]
        weight = 1 / (1 + np.exp(-total / 20))
        np.testing.assert_allclose(found.look[i].item(), weight, rtol=1e-5)
        np.testing.assert_allclose(array(found.vectors[i]), weight * array(body[i]), rtol=1e-5)
    assert ((found.look > 0) & (found.look < 1)).all()


def test_without_a_non_linearity_the_weight_would_see_the_mean_colour_only() -> None:
    """With it, it sees colours, wherever they are."""
    head, seen = dagnet.BodyAttention(), pixels(1, 3, 6, 6)
    flat = seen.mean((2, 3), keepdim=True).expand(seen.shape)
    moved = seen.flatten(2)[..., torch.randperm(36)].view(seen.shape)
    one = torch.ones(1, 1)

    def linear(x: Tensor) -> Tensor:
        return head.second(head.first(x)).mean()

    torch.testing.assert_close(linear(seen), linear(flat))
    assert (head(one, seen).look - head(one, flat).look).abs() > 1e-3
    torch.testing.assert_close(head(one, seen).look, head(one, moved).look)


def test_the_perception_branch_gets_m_times_the_map() -> None:
    """Equation 3, and not (1 + M) times it."""
    head, maps = dagnet.AttentionBranch(CHANNELS, 8, CLASSES, True), pixels(3, CHANNELS, 6, 4)
    given: list[Tensor] = []
    head.perceive.register_forward_pre_hook(lambda module, args: given.extend(args))
    found = head(maps)
    assert found.look is not None
    assert found.look.shape == (3, 6, 4)
    assert ((found.look > 0) & (found.look < 1)).all()
    torch.testing.assert_close(given[0], found.look[:, None] * maps)
    assert found.vectors.shape == (3, 8)
    assert found.logits is not None
    assert found.logits.shape == (3, CLASSES)


def test_at_the_papers_size() -> None:
    head = dagnet.AttentionBranch(256, 512, 26, True).to("meta")
    shapes: list[tuple[int, ...]] = []
    head.perceive.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    found = head(torch.empty(2, 256, 14, 14, device="meta"))
    assert found.look is not None
    assert (tuple(found.look.shape), shapes) == ((2, 14, 14), [(2, 512, 7, 7)])
    layer4 = 256 * 512 * 9 + 3 * 512 * 512 * 9 + 256 * 512  # of ResNet-18, its convolutions
    assert sum(p.numel() for p in head.perceive.parameters() if p.dim() == 4) == layer4
    local = dagnet.LocalAttention(4, True).to("meta")
    nodes = local.features(dagnet.cut(torch.empty(2, 3, 224, 224, device="meta"), 4))
    assert nodes.shape == (2 * 16, 1024)
    assert isinstance(local.mix, dagnet.Graph)
    widths = [tuple(layer.weight.shape) for layer in local.mix.layers if isinstance(layer, nn.Linear)]
    assert widths == [(1024, 1024), (1024, 1024), (512, 1024)]
    assert local.mix.adjacency.shape == (16, 16)
    assert local(torch.empty(2, 3, 224, 224, device="meta")).vectors.shape == (2, 512)


@pytest.mark.parametrize("patches", range(2, 10))
def test_224_px_are_cut_into_patches_of_one_size(patches: int) -> None:
    sides = {2: 112, 3: 75, 4: 56, 5: 45, 6: 38, 7: 32, 8: 28, 9: 25}
    found = dagnet.cut(torch.empty(2, 3, 224, 224, device="meta"), patches)
    assert found.shape == (2 * patches**2, 3, sides[patches], sides[patches])


def test_patches_lie_row_after_row() -> None:
    photos = pixels(2, 3, 12, 12)
    found = dagnet.cut(photos, 4).view(2, 4, 4, 3, 3, 3)
    for i, j in ((0, 0), (0, 3), (2, 1)):
        assert torch.equal(found[:, i, j], photos[:, :, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3])


def test_a_photo_that_cannot_be_cut_is_enlarged_and_keeps_its_edges() -> None:
    """224 px in 3 patches: 225 px. A slope from edge to edge stays one."""
    slope = torch.linspace(0, 1, 224).expand(1, 3, 224, 224)
    rows = dagnet.cut(slope, 3)[:3]  # the upper three patches
    line = torch.cat(list(rows[:, 0, 0]))
    assert line.shape == (225,)
    torch.testing.assert_close(line, torch.linspace(0, 1, 225), atol=3e-3, rtol=0)
    assert (line[1:] >= line[:-1]).all()


def test_the_graph_is_equation_4() -> None:
    head, nodes = dagnet.Graph(4), pixels(2, 4, dagnet.NODE)
    with torch.no_grad():
        head.adjacency.copy_(pixels(4, 4))
    for i in range(2):
        h = array(nodes[i])
        for layer in head.layers:
            assert isinstance(layer, nn.Linear)
            h = np.maximum(array(head.adjacency) @ h @ array(layer.weight).T, 0)
        np.testing.assert_allclose(array(head(nodes)[i]), h.mean(0), atol=1e-5)


def test_with_the_identity_as_adjacency_each_node_is_by_itself() -> None:
    """As it is at the start: a perceptron of three layers over each node."""
    head, nodes = dagnet.Graph(4), pixels(2, 4, dagnet.NODE)
    steps = [part for layer in head.layers for part in (layer, nn.ReLU())]
    each = torch.stack([nn.Sequential(*steps)(nodes[:, i]) for i in range(4)], dim=1)
    torch.testing.assert_close(head(nodes), each.mean(1))
    with torch.no_grad():
        head.adjacency[0, 1] = 0.5
    assert not torch.allclose(head(nodes), each.mean(1), atol=1e-4)


def test_without_the_graph_there_is_a_linear_layer_for_each_patch() -> None:
    head, nodes = dagnet.PatchSum(4), pixels(2, 4, dagnet.NODE)
    weights = array(head.layers.weight).reshape(dagnet.LOCAL, 4, dagnet.NODE)
    expected = sum(array(nodes[:, i]) @ weights[:, i].T for i in range(4)) + array(head.layers.bias)
    np.testing.assert_allclose(array(head(nodes)), expected, atol=1e-4)


def test_pixels_are_normalised_as_imagenets() -> None:
    one = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    expected = (np.array([0, 128, 255]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(array(dagnet.normalised(one))[0, :, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("variant", dagnet.VARIANTS)
def test_a_sample_has_the_mean_of_its_persons_logits(variant: str) -> None:
    head, batch = make(variant).eval(), make_batch([3, 0, 1])
    logits = head(batch).logits
    for sample, count in ((0, 3), (2, 1)):
        alone = []
        for person in range(count):
            inputs = {name: rows[sample, person][None, None] for name, rows in batch.inputs.items()}
            parts = {name: t[:1] for name, t in make_batch([1], 1).parts().items()}
            one = HeadBatch.of_parts(parts | {f"inputs.{name}": rows for name, rows in inputs.items()})
            alone.append(head(one).logits[0])
        torch.testing.assert_close(logits[sample], torch.stack(alone).mean(0), atol=1e-5, rtol=0)
    assert isinstance(head.classify, nn.Linear)
    assert torch.equal(logits[1], head.classify.bias)


def test_padding_is_nothing_to_batch_norm() -> None:
    heads = [network(), network()]
    for head, width in zip(heads, (3, 6), strict=True):
        batch = make_batch([3, 1], 3)
        more = {name: torch.cat([rows, rows.flip(1)], 1)[:, :width] for name, rows in batch.inputs.items()}
        masks = {"person": torch.nn.functional.pad(batch.masks["person"], (0, width - 3))}
        head(HeadBatch(batch.faces, batch.face_mask, batch.boxes, batch.global_, more, masks))
    first, second = (head.state_dict() for head in heads)
    means = [name for name in first if name.endswith("running_mean")]
    assert len(means) > 5
    for name in means:
        assert first[name].any()
        torch.testing.assert_close(second[name], first[name])


def test_the_attention_branch_has_an_answer_and_a_loss_of_its_own() -> None:
    batch = make_batch([2, 0, 1])
    output = network(branch_loss=0.5)(batch)
    assert output.answers.shape == (3, 2, CLASSES)
    assert torch.equal(output.answers[:, 0], output.logits)
    assert output.shares.tolist() == [[1, 0.5], [1, 0], [1, 0.5]]
    off = network(branch_loss=0)
    assert off.context is not None
    assert off.context.answer is None
    assert off(batch).answers is None
    assert network("lsam")(batch).answers is None


def test_looks_are_where_their_persons_are() -> None:
    head = network().eval()
    looks = head(make_batch([2, 0, 1])).looks
    assert {name: tuple(look.shape) for name, look in looks.items()} == {"body": (3, 3, 1), "context": (3, 3, 6, 4)}
    real = make_batch([2, 0, 1]).masks["person"]
    for name, look in looks.items():
        assert (look[real] > 0).all()
        assert not look[~real].any()
        nobody = head(make_batch([0, 0])).looks[name]
        assert nobody.shape == (2, *look.shape[1:])
        assert not nobody.any()


def test_kostis_branches_are_fused() -> None:
    head, batch = make("kosti"), make_batch([1, 1], 1)
    assert isinstance(head, dagnet.KostiHead)
    for i in range(2):
        around = array(batch.inputs["context"][i, 0]).mean((1, 2))
        both = np.concatenate([array(batch.inputs["body"][i, 0]), around])
        fused = np.maximum(array(head.fuse.weight) @ both + array(head.fuse.bias), 0)
        expected = array(head.classify.weight) @ fused + array(head.classify.bias)
        np.testing.assert_allclose(array(head(batch).logits[i]), expected, atol=1e-5)
    vectors = {**batch.inputs, "context": batch.inputs["context"].mean((-2, -1))}
    pooled = HeadBatch(batch.faces, batch.face_mask, batch.boxes, batch.global_, vectors, batch.masks)
    torch.testing.assert_close(head(pooled).logits, head(batch).logits)


@pytest.mark.parametrize("value", [1, 10])
def test_patches_out_of_the_papers_range_are_refused(value: int) -> None:
    with pytest.raises(SettingError, match=r"options\.patches of head dagnet:lsam: .*; it has patches"):
        registry.options_of("dagnet:lsam", {"patches": value})


def test_an_option_of_another_stream_is_refused() -> None:
    with pytest.raises(SettingError, match=r"options\.patches of head dagnet:gsam.*it has branch_loss, width"):
        registry.options_of("dagnet:gsam", {"patches": 4})


def test_it_learns_several_labels() -> None:
    """By the Kullback-Leibler divergence of labels that sum to one."""
    head, batch = network(patches=2), make_batch([1] * 8, 1)
    labels = torch.zeros(8, CLASSES)
    labels[torch.arange(8), torch.arange(8) % 4] = 0.5
    labels[torch.arange(8), 4] = 0.5
    optimiser = torch.optim.Adam(head.parameters(), 0.01)
    losses = []
    for _ in range(40):
        output = head(batch)
        each = nn.functional.kl_div(
            torch.log_softmax(output.answers, -1), labels[:, None].expand(-1, 2, -1), reduction="none"
        )
        loss = (each.sum(-1) * output.shares).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
