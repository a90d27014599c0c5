"""Settings laid over settings.

Mappings are joined key by key, everything else is replaced. `!replace` before a mapping puts it in the place of the
other as a whole, `!remove` takes a key away. (null is a value that settings may have.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from yaml.resolver import BaseResolver

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
    return Replace(loader.yaml_constructors[BaseResolver.DEFAULT_MAPPING_TAG](loader, node))


Loader.add_constructor("!replace", _replace)
Loader.add_constructor("!remove", lambda _loader, _node: REMOVE)


def laid_over(under: Mapping[str, Any], over: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """`under` with `over` laid over it; neither is changed.

    Args:
        place: of both, for messages.

    Raises:
        SettingError: `!remove` stands where there is nothing to remove, or in a list; names the place.
    """
    merged = dict(under)
    for key, value in over.items():
        where = f"{place}.{key}" if place else str(key)
        if value is REMOVE:
            if key not in merged:
                raise SettingError(f"{where} is !remove: there is nothing to remove")
            del merged[key]
        elif isinstance(value, Mapping):
            below = {} if isinstance(value, Replace) else merged.get(key)
            merged[key] = laid_over(below if isinstance(below, Mapping) else {}, value, where)
        else:
            merged[key] = _plain(value, where)
    return merged


def _plain(value: Any, place: str) -> Any:
    """What a list holds, with nothing left to lay over."""
    if value is REMOVE:
        raise SettingError(f"{place}: !remove stands in a list; write the list without it")
    if isinstance(value, Mapping):
        return laid_over({}, value, place)
    return [_plain(one, place) for one in value] if isinstance(value, list) else value


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
