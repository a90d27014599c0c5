"""Which backbone plays a role, and what its blocks are keyed by."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stages import device
from stages.align.run import crops_spec
from stages.align.templates import find
from stages.backbones import weights
from stages.engines import TORCH_CPU, Engine, installed
from stages.errors import SettingError, WeightsError
from stages.extract.plan import RolePlan, plan_role, resolve_backbone
from stages.extract.settings import BackboneSettings, ExtractSettings

KEY = "0" * 64


def settings(**changes: object) -> ExtractSettings:
    role = {"backbone": "resnet29", "taps": ("embedding",), **changes}
    return ExtractSettings(backbones={"identity": BackboneSettings.model_validate(role)}, device="cpu", engine="torch")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder without files, with torch's download folder out of the way."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "weights"


def test_a_plan(weights_folder: Path) -> None:
    plan = plan_role("identity", settings(), weights_folder, KEY, "found")
    assert (plan.role, plan.spec.name, plan.stands_in_for) == ("identity", "resnet29", None)
    assert plan.crops is not None
    assert plan.crops == crops_spec(find("dlib150"), KEY, "found")
    [(tap, block)] = plan.blocks.items()
    assert (tap, block.name, block.level, block.shape) == ("embedding", "resnet29/embedding", "face", (128,))
    assert block.weights == {"resnet29": weights.sha256("resnet29", weights_folder)}
    assert block.inputs == {"crops": plan.crops.key}
    assert block.numerics == {
        "engine": "torch-cpu",
        "layout": "channels_last",
        "compute": "float32",
        "dtype": "float16",
    }
    assert plan.engine == TORCH_CPU


def test_the_engine_is_in_the_key(weights_folder: Path) -> None:
    def plan(**changes: object) -> RolePlan:
        chosen = ExtractSettings.model_validate({**settings().model_dump(), "engine": "auto", **changes})
        return plan_role("identity", chosen, weights_folder, KEY, "found")

    def numerics(**changes: object) -> dict[str, object]:
        return dict(plan(**changes).blocks["embedding"].numerics)

    fast = {"engine": "openvino-cpu", "compute": "float32", "dtype": "float16"}
    assert numerics(engine="openvino") == fast  # whether it is installed here or not: rows can be read
    assert plan(engine="openvino").engine == Engine("openvino", "cpu")
    assert numerics(engine="openvino", compute="bfloat16") == {**fast, "compute": "bfloat16"}
    torch = {"engine": "torch-cpu", "layout": "channels_last", "compute": "float32", "dtype": "float16"}
    assert numerics(compile=True) == {**torch, "compile": "torch.compile"}
    assert numerics() == (fast if installed() else torch)
    gpu = {"engine": "torch-cuda", "layout": "channels_last", "compute": "float16", "dtype": "float16"}
    assert numerics(device="cuda", compute="float16") == gpu
    assert numerics(device="cuda") == {**gpu, "layout": "contiguous_format", "compute": "float32"}
    with pytest.raises(SettingError, match=r"extract\.compute is float16, which a CPU does not"):
        plan(compute="float16")
    with pytest.raises(SettingError, match=r"extract\.engine is openvino, which is for CPUs"):
        plan(engine="openvino", device="cuda")


def test_the_key_follows_what_changes_values(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(chosen: ExtractSettings, detections: str = KEY, source: str = "found") -> str:
        plan = plan_role("identity", chosen, weights_folder, detections, source)  # pyright: ignore[reportArgumentType]
        return plan.blocks["embedding"].key

    base = key(settings())
    changed = [
        key(settings().model_copy(update={"dtype": "float32"})),
        key(settings().model_copy(update={"device": "cuda"})),
        key(settings(), "1" * 64),
        key(settings(), source="given"),
    ]
    assert len({base, *changed}) == 5
    assert key(settings().model_copy(update={"batch_size": 3})) == base
    monkeypatch.setattr(device, "cuda_devices", lambda: 8)
    assert key(settings().model_copy(update={"device": "auto"})) == changed[1]


def test_a_stand_in_plays_only_where_weights_are_missing(weights_folder: Path, empty: Path) -> None:
    wanted = {"backbone": "inception_resnet_v1:vggface2"}
    with pytest.raises(WeightsError, match=r"weights of inception_resnet_v1:vggface2: .* is not there"):
        plan_role("identity", settings(**wanted), empty, KEY, "found")
    empty.mkdir()
    shutil.copy(weights.locate("resnet29", weights_folder), empty)
    plan = plan_role("identity", settings(**wanted, stand_in="resnet29"), empty, KEY, "found")
    assert (plan.spec.name, plan.stands_in_for) == ("resnet29", "inception_resnet_v1:vggface2")
    assert plan.blocks["embedding"].source == "resnet29"
    spec, missing = resolve_backbone("identity", settings(stand_in="inception_resnet_v1:vggface2"), empty)
    assert (spec.name, missing) == ("resnet29", None)


def test_nothing_stands_in_for_damaged_weights(weights_folder: Path, empty: Path) -> None:
    empty.mkdir()
    path = weights.locate("resnet29", weights_folder)
    (empty / path.name).write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(WeightsError, match="resnet29"):
        plan_role("identity", settings(stand_in="mini_xception"), empty, KEY, "found")


def test_what_is_unknown_is_named(weights_folder: Path) -> None:
    with pytest.raises(SettingError, match=r"extract\.backbones has no 'scene': it has identity"):
        resolve_backbone("scene", settings(), weights_folder)
    with pytest.raises(SettingError, match=r"identity\.taps: resnet29 has no 'feature', it has embedding"):
        resolve_backbone("identity", settings(taps=("feature",)), weights_folder)
    with pytest.raises(SettingError, match="resnet30"):
        resolve_backbone("identity", settings(backbone="resnet30"), weights_folder)
