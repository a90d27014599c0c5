"""A project on disk: its settings, its artifacts, and the places outside it (the store, the weights)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from cache.store import Store
from pipeline import params
from pipeline.places import open_store
from stages.backbones.weights import weights_dir
from stages.errors import MissingInputError
from stages.extract.elsewhere import located
from stages.index.contents import ContentIndex
from stages.index.joined import SetSettings
from stages.index.manifest import Manifest
from stages.index.run import IndexSettings, images_root

S = TypeVar("S", bound=SetSettings)


class Project:
    """The project in a folder. Nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.artifacts = self.folder / "artifacts"

    @cached_property
    def params(self) -> params.Params:
        """The validated settings."""
        return params.load(self.folder)

    @cached_property
    def store(self) -> Store:
        """The user's feature store, over the shared ones."""
        return open_store()

    @cached_property
    def contents(self) -> ContentIndex:
        """Hashes of files seen before, beside the store."""
        return ContentIndex(self.store.root / "contents.sqlite")

    @property
    def weights_folder(self) -> Path:
        """Where weights are looked for."""
        return weights_dir()

    @property
    def finetunes(self) -> Path:
        """Has a folder for each fine-tune."""
        return self.artifacts / "finetune"

    @cached_property
    def index_settings(self) -> IndexSettings:
        """The settings of the index stage, with paths made absolute."""
        data = self.params.data
        also = {name: self._set(SetSettings, one) for name, one in data.also.items()}
        return replace(self._set(IndexSettings, data), also=also)

    def _set(self, kind: type[S], data: params.DataSetSettings) -> S:
        """The settings of one data set."""
        return kind(
            adapter=data.adapter,
            root=self.located(data.root),
            images=self.located(data.images) if data.images is not None else None,
            columns=data.columns,
            options=data.options,
            base=self.folder,
            val=data.split.val,
            test=data.split.test,
            seed=data.split.seed,
            labels=data.labels,
            use=data.use,
        )

    def located(self, place: str) -> Path:
        """A path of params.yaml that leads out of the project, such as another project's folder."""
        return located(self.folder, place)

    @property
    def images_root(self) -> Path:
        """What the manifest's paths are relative to."""
        return images_root(self.index_settings)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest that `kuleshov index` wrote."""
        return Manifest.read(self.artifacts / "manifest.csv")

    def failures(self, stage: str) -> Path:
        """The ledger of a stage."""
        return self.artifacts / "failures" / f"{stage}.csv"

    def need(self, relative: str, command: str) -> Path:
        """A file that an earlier command writes.

        Raises:
            MissingInputError: it is not there.
        """
        path = self.artifacts / relative
        if not path.exists():
            raise MissingInputError(f"{path} is not there; run kuleshov {command}")
        return path
