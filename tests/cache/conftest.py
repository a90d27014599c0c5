from __future__ import annotations

import pytest

from cache.keys import BlockSpec


@pytest.fixture
def spec() -> BlockSpec:
    return BlockSpec(
        source="net",
        tap="embedding",
        level="face",
        shape=(4,),
        extractor_version=1,
        weights={"net.pt": "ab" * 32},
        preprocessing={"size": [112, 96]},
        numerics={"engine": "torch-cpu", "dtype": "float16"},
    )
