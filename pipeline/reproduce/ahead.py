"""What can be known to fail is looked for before the first stage: roots, settings, weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import params
from pipeline.project import Project
from pipeline.wanted import weights_of
from stages.backbones import weights
from stages.errors import DataError, SettingError, WeightsError
from stages.index.joined import read_parts


def require_ready(folders: Mapping[str, Path]) -> None:
    """Refuse projects that could not be run to the end.

    Each one's data sets are listed, without looking at a photo, and the weights that its backbones and fine-tunes start
    from are looked for.

    Args:
        folders: project -> its folder, with params.yaml.

    Raises:
        SettingError: an adapter cannot follow its options.
        DataError: a root is laid out in another way.
        WeightsError: weights are missing; names all of them.
    """
    lacking: dict[str, None] = {}
    for name, folder in folders.items():
        project = Project(folder)
        try:
            settings = project.index_settings
            read_parts(settings, settings.also)
        except (SettingError, DataError) as error:
            raise type(error)(f"project {name}: {error}") from None
        lacking |= dict.fromkeys(missing(project.params, project.weights_folder))
    if lacking:
        names = " ".join(lacking)
        raise WeightsError(
            f"weights of {', '.join(lacking)} are not here: kuleshov weights fetch {names}, or, where nobody publishes "
            "them, kuleshov weights add NAME FILE --trust; nothing was run"
        )


def without_stand_in(settings: params.Params) -> list[str]:
    """The catalogue weights without which the project cannot be run."""
    return [name for name, stand_in in weights_of(settings).items() if not stand_in]


def missing(settings: params.Params, folder: Path) -> list[str]:
    """Those of `without_stand_in` that are not in the folder of weights."""
    return [name for name in without_stand_in(settings) if not weights.status(name, folder).present]
