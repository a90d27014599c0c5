"""Targets of annotators' shares."""

from __future__ import annotations

import numpy as np
import pytest

from stages.errors import DataError
from stages.heads.shares import no_class, require_shares, share_targets
from stages.index.manifest import Sample

CLASSES = ("calm", "glad", "sad")


def sample(labels: tuple[str, ...] = ("calm",), **shares: float) -> Sample:
    return Sample("a", "a", "image", labels, "train", "", "", (), "0" * 64, tuple(sorted(shares.items())))


def test_rows() -> None:
    rows = share_targets(
        [
            sample(glad=0.75, calm=0.25),
            sample(("sad",)),
            sample(calm=0.3, glad=0.3, contempt=0.4),
            sample(("glad",), contempt=1.0),
            sample((), glad=1.0),
            sample(("calm", "sad"), glad=1.0),
        ],
        CLASSES,
    )
    assert rows.dtype == np.float32
    expected = [[0.25, 0.75, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(rows, expected, atol=1e-7)
    assert share_targets([], CLASSES).shape == (0, 3)


def test_a_label_that_is_no_class() -> None:
    with pytest.raises(DataError, match="a has the label 'awed', none of the classes calm, glad, sad"):
        share_targets([sample(("awed",), glad=1.0)], CLASSES)


def test_shares_of_nobodys_label() -> None:
    some = [sample(glad=0.5, contempt=0.5), sample(), sample((), fear=1.0), sample(awe=1.0)]
    assert no_class(iter(some), CLASSES) == ("awe", "contempt"), "a sample without a label does not train"
    require_shares(some, CLASSES, "loss")
    with pytest.raises(DataError, match=r"^loss is soft, and no training sample has shares of the classes: use labels"):
        require_shares(some[1:], CLASSES, "loss is soft")
