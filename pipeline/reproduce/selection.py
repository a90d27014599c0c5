"""Of a project's settings those that some members need: what a table does not show is not trained for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.errors import SettingError
from stages.extract.settings import unfolded

OTHER_PROJECT = re.compile(r"folder:\.\./(?P<project>[^/]+)/artifacts/finetune/(?P<name>[^/]+)/?")
"""What a fine-tune starts from that another project of the recipe makes."""

_OF_A_SEED = re.compile(r"-s\d+$")


@dataclass
class Needed:
    """What members come of.

    Attributes:
        heads, finetunes, ensembles, roles: names.
        elsewhere: other project -> its fine-tunes.
    """

    heads: set[str] = field(default_factory=set)
    finetunes: set[str] = field(default_factory=set)
    ensembles: set[str] = field(default_factory=set)
    roles: set[str] = field(default_factory=set)
    elsewhere: dict[str, set[str]] = field(default_factory=dict)


def needed(settings: Mapping[str, Any], members: Iterable[str], project: str) -> Needed:
    """What some members come of, by way of ensembles, blocks, roles and starts.

    Args:
        project: for messages.

    Raises:
        SettingError: a name that the settings do not have; or they have no heads or roles.
    """
    search = _Search(settings, project)
    for member in sorted(members):
        search.member(member)
    return search.found


def selected(settings: Mapping[str, Any], found: Needed) -> dict[str, Any]:
    """The settings with only those heads, fine-tunes, ensembles and roles."""
    chosen = {key: value for key, value in settings.items() if key != "finetune"}
    extract, train = dict(settings["extract"]), dict(settings["train"])
    extract["backbones"] = _only(extract["backbones"], found.roles)
    train["heads"] = _only(train["heads"], found.heads)
    ensembles = _only(settings.get("fuse", {}).get("ensembles", {}), found.ensembles)
    return chosen | {
        "extract": extract,
        "finetune": _only(settings.get("finetune", {}), found.finetunes),
        "train": train,
        "fuse": {"ensembles": ensembles},
    }


def _only(of: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in of.items() if name in names}


class _Search:
    def __init__(self, settings: Mapping[str, Any], project: str) -> None:
        for section, key in (("extract", "backbones"), ("train", "heads")):
            if key not in settings.get(section, {}):
                raise SettingError(f"project {project}: {section}.{key} is missing")
        self.project = project
        self.ensembles: Mapping[str, Any] = settings.get("fuse", {}).get("ensembles", {})
        self.heads: Mapping[str, Any] = settings["train"]["heads"]
        self.finetunes: Mapping[str, Any] = settings.get("finetune", {})
        self.roles: Mapping[str, Any] = settings["extract"]["backbones"]
        self.found = Needed()

    def member(self, name: str) -> None:
        plain = _OF_A_SEED.sub("", name)
        if plain in self.ensembles:
            self.found.ensembles.add(plain)
            for one in self.ensembles[plain]["members"]:
                self.member(one)
        elif plain in self.heads:
            self._head(plain)
        else:
            self._finetune(plain)

    def _head(self, name: str) -> None:
        if name in self.found.heads:
            return
        self.found.heads.add(name)
        head = self.heads[name]
        blocks = [*head.get("faces", ()), *head.get("global", ())]
        blocks += [block for of in head.get("inputs", {}).values() for block in of]
        for block in blocks:
            role = unfolded(block.partition("/")[0])
            if role in self.roles:  # others are crops, or imported
                self._role(role)
        self._start(head.get("start"))

    def _role(self, name: str) -> None:
        self.found.roles.add(name)
        if (finetuned := self.roles[name].get("finetuned")) is not None:
            self._start(finetuned if finetuned.startswith("folder:") else f"finetune:{finetuned}")

    def _finetune(self, name: str) -> None:
        plain = unfolded(name)
        plain = plain if plain in self.finetunes else plain.partition(".")[0]  # another answer of it
        if plain not in self.finetunes:
            raise SettingError(f"project {self.project} has no head, fine-tune or ensemble {name!r}")
        if plain in self.found.finetunes:
            return
        self.found.finetunes.add(plain)
        one = self.finetunes[plain]
        for start in (one.get("start"), (one.get("photos") or {}).get("start")):
            self._start(start)

    def _start(self, start: str | None) -> None:
        if start is None:
            return
        if start.startswith("finetune:"):
            self._finetune(start.partition(":")[2])
        elif (other := OTHER_PROJECT.fullmatch(start)) is not None:
            self.found.elsewhere.setdefault(other["project"], set()).add(other["name"])
