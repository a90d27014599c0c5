"""Settings laid over settings.

Mappings are joined key by key, everything else is replaced. `!replace` before a mapping puts it in the place of the
other as a whole, `!remove` takes a key away. (null is a value that settings may have.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.params import UniqueKeyLoader
from stages.errors import SettingError


class Replace(dict[str, Any]):
    """A mapping that is not joined with what it is laid over."""


class _Remove:
    def __repr__(self) -> str:
        return "!remove"


REMOVE = _Remove()


class Loader(UniqueKeyLoader):
    """As that of params.yaml, with `!replace` and `!remove`."""


def _replace(loader: Loader, node: yaml.Node) -> Replace:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "!replace stands before a mapping", node.start_mark)
    return Replace({str(key): value for key, value in loader.construct_mapping(node, deep=True).items()})


Loader.add_constructor("!replace", _replace)
Loader.add_constructor("!remove", lambda _loader, _node: REMOVE)


def laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with `over` laid over it; neither is changed."""
    merged = dict(under)
    for key, value in over.items():
        if value is REMOVE:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and not isinstance(value, Replace):
            below = merged.get(key)
            merged[key] = laid_over(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = _plain(value)
    return merged


def _plain(value: Any) -> Any:
    return laid_over({}, dict(value)) if isinstance(value, Replace) else value


def joined(one: Mapping[str, Any], other: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Both; what is in both must be the same.

    Raises:
        SettingError: it is not; names the place.
    """
    both = dict(one)
    for key, value in other.items():
        where = f"{place}.{key}" if place else str(key)
        if key not in both:
            both[key] = value
        elif isinstance(value, Mapping) and isinstance(both[key], Mapping):
            both[key] = joined(both[key], value, where)
        elif both[key] != value:
            raise SettingError(f"{where} is {both[key]!r} and {value!r}")
    return both


def filled(settings: Any, places: Mapping[str, str]) -> Any:
    """Settings with `{NAME}`, where that is all of a text or begins it, as `places` has it."""
    if isinstance(settings, Mapping):
        return {key: filled(value, places) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [filled(value, places) for value in settings]
    if isinstance(settings, str) and settings.startswith("{"):
        name, closed, rest = settings[1:].partition("}")
        if closed and name in places:
            return places[name] + rest
    return settings
