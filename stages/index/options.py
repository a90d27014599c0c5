"""`data.options`: what an adapter can be told beside its root."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from stages.errors import SettingError
from stages.index.raw import Source
from stages.settings import Settings

S = TypeVar("S", bound=Settings)


class NoOptions(Settings):
    """Of an adapter that can be told nothing."""


def options_of(source: Source, model: type[S]) -> S:
    """The options of an adapter, those that are not given as `model` has them.

    Raises:
        SettingError: it has no such option, or the value is wrong.
    """
    try:
        return model.model_validate(dict(source.options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(("options", *(str(part) for part in first["loc"])))
        known = ", ".join(model.model_fields) or "none"
        said = first["msg"].removeprefix("Value error, ")
        raise SettingError(f"{source.place}.{where} is {first['input']!r}: {said}; options here: {known}") from None
