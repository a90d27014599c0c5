"""params.yaml -> typed, validated settings. An unknown key is an error that names it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from stages.detect.settings import DetectSettings
from stages.errors import MissingInputError, SettingError
from stages.extract.settings import FOLDER, ExtractSettings, unfolded
from stages.finetune.settings import FinetuneSettings
from stages.fuse.settings import FuseSettings
from stages.index.joined import label_problem, name_problem
from stages.index.registry import names as adapters
from stages.ledger import Allowance
from stages.settings import Settings
from stages.train.settings import TrainSettings

FILE = "params.yaml"

_FORMS = {
    **dict.fromkeys(("model_type", "dict_type"), "input should be a mapping, such as {name: value}"),
    "tuple_type": "input should be a list, such as [a, b]",
}
"""What pydantic says in Python's words, in YAML's."""


class SplitSettings(Settings):
    """The split where the data gives none: shares of validation and test, and the seed."""

    val: float = Field(default=0.15, ge=0, lt=1)
    test: float = Field(default=0.15, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)


def _known_adapter(name: str) -> str:
    if name not in adapters():
        raise ValueError(f"choose one of {', '.join(adapters())}")
    return name


class DataSetSettings(Settings):
    """Where the photos and labels of a data set are, and what they are to us.

    Attributes:
        adapter: how `root` is laid out: `folder`, `csv`, or a published data set.
        root: a folder, or the file of `csv`; relative to params.yaml.
        images: `csv`: what its paths are relative to; None: the csv's folder.
        columns: `csv`: our name -> the file's column.
        options: what else the adapter can be told; paths are relative to params.yaml.
        labels: the data set's label -> ours; None leaves its samples out. Empty: labels stay as they are.
        use: the split that every sample goes to; `all`: the data set's own splits, or those that are made.
    """

    adapter: Annotated[str, AfterValidator(_known_adapter)]
    root: str = Field(min_length=1)
    images: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, str | None] = Field(default_factory=dict)
    use: Literal["all", "train", "val", "test"] = "all"
    split: SplitSettings = SplitSettings()

    @field_validator("labels", mode="before")
    @classmethod
    def _texts(cls, labels: object) -> object:
        if not isinstance(labels, dict):
            return labels
        read: dict[str, str | None] = {}
        for theirs, ours in labels.items():
            name, becomes = _label(theirs), None if ours is None else _label(ours)
            if name in read:
                raise ValueError(f"label {name!r} occurs twice")
            if becomes is not None and (problem := label_problem(becomes)):
                raise ValueError(problem)
            read[name] = becomes
        return read


class DataSettings(DataSetSettings):
    """The main data set, whose images the manifest's paths start from, and further ones.

    Attributes:
        also: name -> a further data set.
    """

    also: dict[str, DataSetSettings] = Field(default_factory=dict)

    @field_validator("also")
    @classmethod
    def _names(cls, also: dict[str, DataSetSettings]) -> dict[str, DataSetSettings]:
        for name in also:
            if problem := name_problem(name):
                raise ValueError(problem)
        return also


def _label(value: object) -> str:
    """A label as YAML read it: a whole number (the classes of some tables) is its digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"a label was read as {value!r}, no text; put it in quotes")


class EvaluateSettings(Settings):
    """What is judged: a split that chose nothing, with bootstrap intervals from `resamples` resamples."""

    split: Literal["train", "val", "test"] = "test"
    resamples: int = Field(default=2000, ge=100, le=1_000_000)
    seed: int = Field(default=0, ge=0)


class ReportSettings(Settings):
    """The report: its title, and how many photos its gallery shows."""

    title: str = "Kuleshov"
    gallery: int = Field(default=24, ge=0, le=500)


_TAKEN = frozenset({"baseline", "n"})
_OF_A_SEED = re.compile(r".*-s\d+")


def _no_fold(name: str) -> str:
    if unfolded(name) != name:
        raise ValueError(f"{name!r} is what one fold of a fine-tune is called; choose another name")
    return name


FinetuneName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"), AfterValidator(_no_fold)]
"""It names a folder."""


class Params(Settings):
    """All settings of a project."""

    data: DataSettings
    detect: DetectSettings = DetectSettings()
    extract: ExtractSettings
    finetune: dict[FinetuneName, FinetuneSettings] = Field(default_factory=dict)
    train: TrainSettings
    fuse: FuseSettings = FuseSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()
    max_failures: str = "5%"

    @field_validator("extract")
    @classmethod
    def _some_backbone(cls, extract: ExtractSettings) -> ExtractSettings:
        if not extract.backbones:  # dvc.yaml has a stage for each
            raise ValueError("backbones is empty; name at least one")
        return extract

    @field_validator("finetune")
    @classmethod
    def _not_like_a_seed(cls, finetune: dict[str, FinetuneSettings]) -> dict[str, FinetuneSettings]:
        for name, one in finetune.items():
            if _OF_A_SEED.fullmatch(name):
                raise ValueError(
                    f"fine-tune name {name!r}: it ends as the name of one seed's member does; choose another"
                )
            for how in one.answers:
                if (called := f"{name}.{how}") in finetune:
                    raise ValueError(f"finetune.{name}.answers.{how} and fine-tune {called!r} have the same name")
        return finetune

    @field_validator("finetune")
    @classmethod
    def _known(cls, finetune: dict[str, FinetuneSettings], info: ValidationInfo) -> dict[str, FinetuneSettings]:
        extract = info.data.get("extract")
        for role, one in (extract.backbones if extract is not None else {}).items():
            if one.finetuned is not None and not one.finetuned.startswith(FOLDER):
                where = f"extract.backbones.{role}"
                _require_known(one.finetuned, finetune, f"{where}.finetuned is {one.finetuned!r}")
                made = finetune[unfolded(one.finetuned)].folds
                if made is not None and one.folds != made and unfolded(one.finetuned) == one.finetuned:
                    raise ValueError(f"finetune.{one.finetuned}.folds is {made}: set {where}.folds to {made} as well")
        for name, one in finetune.items():
            for earlier in one.from_finetunes:
                _require_known(earlier, finetune, f"finetune.{name} starts from {earlier!r}")
                if earlier in finetune and finetune[earlier].folds is not None and one.folds != finetune[earlier].folds:
                    raise ValueError(
                        f"finetune.{name} starts from {earlier!r}, which is made in {finetune[earlier].folds} folds: "
                        f"set folds of {name} to that, or start from one of them, such as {earlier}.fold0"
                    )
        return finetune

    @field_validator("train")
    @classmethod
    def _heads_apart(cls, train: TrainSettings, info: ValidationInfo) -> TrainSettings:
        for name, head in train.heads.items():
            if head.start is not None and "finetune" in info.data:
                earlier = head.start.partition(":")[2]
                _require_known(earlier, info.data["finetune"], f"train.heads.{name} starts from {earlier!r}")
        _apart("head", "train.heads", train.heads, _members(info))
        return train

    @field_validator("fuse")
    @classmethod
    def _ensembles_apart(cls, fuse: FuseSettings, info: ValidationInfo) -> FuseSettings:
        _apart("ensemble", "fuse.ensembles", fuse.ensembles, _members(info))
        return fuse

    @field_validator("max_failures", mode="before")
    @classmethod
    def _allowance(cls, value: object) -> str:
        try:
            return str(Allowance.parse(str(value)))
        except SettingError as error:
            raise ValueError(str(error)) from None


def _require_known(name: str, finetunes: Collection[str], said: str) -> None:
    """Refuse the name of a fine-tune, or of one fold of it, that params.yaml does not have."""
    if unfolded(name) not in finetunes:
        raise ValueError(f"{said}, and finetune has {', '.join(sorted(finetunes)) or 'none'}: name one of these")


def _members(info: ValidationInfo) -> list[str]:
    """What fine-tunes are called as members, with their further answers."""
    known: dict[str, FinetuneSettings] = info.data.get("finetune", {})
    return [called for name, one in known.items() for called in one.members(name).values()]


def _apart(what: str, place: str, names: Iterable[str], finetunes: Iterable[str]) -> None:
    """Refuse a member that is called as a fine-tune is: ensembles and scores go by name."""
    both = sorted({*names} & {*finetunes})
    if taken := sorted({*names, *finetunes} & _TAKEN):
        raise ValueError(f"{taken[0]!r} is a line of its own in scores.json; give the {what} or fine-tune another name")
    if both:
        raise ValueError(
            f"{what} {place}.{both[0]} and fine-tune finetune.{both[0]} have the same name, by which ensembles and "
            "scores know them; rename one of them"
        )


class UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last."""


def _mapping(loader: UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str) and key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice", key_node.start_mark)
        seen.add(key if isinstance(key, str) else id(key))
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(folder: Path) -> Params:
    """The settings of the project in `folder`.

    Raises:
        MissingInputError: there is no params.yaml.
        SettingError: it is not YAML, or a key is unknown, missing, or has a bad value.
    """
    path = folder / FILE
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise MissingInputError(
            f"{path} is not there; make a project with kuleshov init, or name one with -C"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    return parse(values, str(path))


def parse(values: object, where: str) -> Params:
    """Validate settings read from `where`.

    Raises:
        SettingError: names the first bad key, its value and what is allowed.
    """
    if not isinstance(values, dict):
        raise SettingError(f"{where}: the settings must be a mapping, such as 'data: ...'")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise SettingError(f"{where}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    # A misspelt key is often a missing one too: name the misspelt one.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {place!r}{_suggestion(first['loc'])}{more}"
    if first["type"] == "missing":
        return f"key {place!r} is missing{more}"
    message = _FORMS.get(first["type"], first["msg"].removeprefix("Value error, "))
    shown = repr(first["input"])
    if message.startswith(f"{place} is "):
        return message + more
    if len(shown) > 80:  # a whole table: the message names what is wrong in it
        return f"{place}: {message[:1].lower() + message[1:]}{more}"
    return f"{place} is {shown}: {message[:1].lower() + message[1:]}{more}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """`; did you mean 'x'?`, or which keys there are."""
    model: Any = Params
    free = False  # whether the next part is a name of the user's own, such as a head's
    for part in location[:-1]:
        if free:
            free = False
            continue
        fields = getattr(model, "model_fields", {})
        field = next((f for name, f in fields.items() if part in (name, f.alias)), None)
        model = _model_in(field.annotation) if field else None
        free = field is not None and getattr(field.annotation, "__origin__", None) is dict
    known = [f.alias or name for name, f in getattr(model, "model_fields", {}).items()]
    close = difflib.get_close_matches(str(location[-1]), known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _model_in(annotation: Any) -> Any:
    """The settings class in an annotation such as `dict[str, HeadSettings]`; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((m for m in map(_model_in, getattr(annotation, "__args__", ())) if m), None)
