"""Which heads have a stacked form, and those of heads that cannot have one in their own file yet.

A head joins populations in one of two ways:

- It is a plain nn.Module from HeadBatch to HeadOutput. Nothing has to be done: `generic.py` stacks it with torch.func.
  Its random layers must be nn.Dropout modules, its normalising ones nn.BatchNorm1d or without state.
- It also has a method `stacked(net) -> Value`, its forward pass written with the layers of `net.Net`, which gives the
  logits. That is faster, most for small heads. It must call dropout in the order in which `forward` does. The tests of
  `tests/stages/train/population/test_forms.py` compare the two forms; add the head there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from stages.heads.gupta2018 import FacesHead, GuptaHead
from stages.heads.ours import GatedHead
from stages.heads.tan2017 import PhotoScores
from stages.train.population.net import Net, Value

Form = Callable[[nn.Module, Net], Value]
"""Logits (P, B, K) of P heads, from the head that says how they are built, and the net they are computed with."""


def form_of(head: nn.Module) -> Form | None:
    """The stacked form of a head; None where it has none, or where its class has another `forward` than its base."""
    if type(head) in _FORMS:
        return _FORMS[type(head)]
    for kind in type(head).__mro__:
        if "stacked" in vars(kind):
            return vars(kind)["stacked"]
        if "forward" in vars(kind):
            break
    return None


def _gupta(head: nn.Module, net: Net) -> Value:
    """`GuptaHead.forward`."""
    head = cast(GuptaHead, head)
    rate = head.dropout.p
    faces = net.dropout(net.linear("face", net.faces), rate)  # (P, R, width)
    photo = net.dropout(net.linear("global_", net.global_), rate)  # (P, B, 256)
    if head.variant == "average":
        weights = net.mean_weights()
    elif head.variant == "attention_c":
        scores = net.linear("score", net.dropout(net.linear("score_hidden", faces), rate))
        weights = net.softmax(scores)
    else:
        query = photo if head.variant == "attention_a" else net.dropout(net.linear("intermediate", photo), rate)
        weights = net.softmax(net.dot(faces, query))
    pooled = net.norm("face_norm", net.pool(weights, faces))
    return net.linear("classify", net.join(pooled, net.norm("global_norm", photo)))


def _faces(head: nn.Module, net: Net) -> Value:
    """`FacesHead.forward`."""
    scores = net.linear("classify", net.dropout(net.faces, cast(FacesHead, head).dropout.p))  # (P, R, K)
    return net.pool(net.mean_weights(), scores)


def _photo(head: nn.Module, net: Net) -> Value:
    """`PhotoScores.forward`."""
    return net.linear("classify", net.dropout(net.global_, cast(PhotoScores, head).dropout.p))


def _gated(head: nn.Module, net: Net) -> Value:
    """`GatedHead.forward`."""
    rate = cast(GatedHead, head).dropout.p
    faces = net.dropout(net.relu(net.linear("face", net.faces)), rate)  # (P, R, 256)
    photo = net.dropout(net.relu(net.linear("global_", net.global_)), rate)  # (P, B, 256)
    gated = net.product(net.tanh(net.linear("content", faces)), net.sigmoid(net.linear("gate", faces)))
    pooled = net.pool(net.softmax(net.linear("score", gated)), faces)
    return net.linear("classify", net.join(pooled, photo))


_FORMS: dict[type[nn.Module], Form] = {
    GuptaHead: _gupta,
    FacesHead: _faces,
    PhotoScores: _photo,
    GatedHead: _gated,
}
