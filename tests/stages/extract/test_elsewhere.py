"""Paths that lead out of a project, and roles that are of another project's fine-tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.extract.elsewhere import located
from stages.extract.plan import finetuned_weights
from stages.extract.settings import ExtractSettings, finetune_command

OTHER = "../other/artifacts/finetune/base"


def settings(**changes: Any) -> ExtractSettings:
    role = {"backbone": "resnet29", "taps": ["embedding"], **changes}
    return ExtractSettings.model_validate({"backbones": {"tuned": role}, "device": "cpu", "engine": "torch"})


def test_an_experiments_copy_finds_what_lies_beside_the_workspace(tmp_path: Path) -> None:
    """`dvc exp run --temp` works in a copy inside the workspace, beside which nothing lies."""
    main = tmp_path / "main"
    copy = main / ".dvc" / "tmp" / "exps" / "tmp1"
    for folder in (main, copy):
        (folder / ".git").mkdir(parents=True)
    for name in ("base", "base.fold1"):
        (tmp_path / "other" / "artifacts" / "finetune" / name).mkdir(parents=True)
    file = finetuned_weights(copy / "artifacts" / "finetune", f"folder:{OTHER}.fold1")
    assert file == main / f"{OTHER}.fold1" / "backbone.safetensors"
    assert located(copy, "photos") == main / "photos"
    (copy / "photos").mkdir()
    assert located(copy, "photos") == copy / "photos"
    assert located(main, "none") == main / "none"


def test_folds_of_a_folder_are_named_after_it() -> None:
    for end in ("", "/", "//"):
        roles = settings(finetuned=f"folder:{OTHER}{end}", folds=2).roles
        assert [one.finetuned for one in roles.values()] == [f"folder:{OTHER}.fold0", f"folder:{OTHER}.fold1"]
        [plain] = settings(finetuned=f"folder:{OTHER}{end}").roles.values()
        assert finetune_command(plain.finetuned or "") == "kuleshov finetune base in the project that it is of"
