"""Templates of persons by name, and the blocks they stand for."""

from __future__ import annotations

import pytest

from stages.align import run as stage
from stages.align.persons import FILL, PersonTemplate, find_person
from stages.align.run import crops_block, crops_spec, persons_spec
from stages.align.templates import TEMPLATES, find, find_any, template_of
from stages.backbones.registry import get_spec
from stages.errors import SettingError


def test_names() -> None:
    assert find_person("person224") == PersonTemplate("person", 224)
    assert find_person("context32") == PersonTemplate("context", 32)
    assert find_any("context1024").name == "context1024"
    for name in ("person", "person31", "context1025", "person0224", "persons224", "person224 ", "box48", "person-224"):
        assert find_person(name) is None, name
    for name in TEMPLATES:
        assert find_any(name) is find(name)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(SettingError, match=r"'person9': use one of arc112, .*personN or contextN, N from 32 to 1024"):
        find_any("person9")
    with pytest.raises(SettingError, match="'mug': use one of"):
        crops_block("mug/pixels", "0", "found")


def test_names_of_blocks() -> None:
    assert template_of("person224/pixels") == "person224"
    assert template_of("box48/pixels") == "box48"
    assert template_of("body/pooled") is None
    assert template_of("imported/pixels") is None


def test_a_name_stands_for_a_block() -> None:
    for name in ("box48", "box48/pixels"):
        assert crops_block(name, "0", "given") == crops_spec(find("box48"), "0", "given")
    for name in ("context224", "context224/pixels"):
        assert crops_block(name, "0", "given") == persons_spec(PersonTemplate("context", 224))
    spec = crops_block("person224", "0", "found")
    assert (spec.name, spec.level, spec.shape) == ("person224/pixels", "person", (224, 224, 3))


def test_the_key_of_persons_is_of_the_template_and_not_of_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("person224", "context224", "person112", "context112")
    keys = {name: crops_block(name, "0", "found").key for name in names}
    assert len({*keys.values()}) == 4
    assert crops_block("person224", "1", "given").key == keys["person224"], "its items are known by their boxes"
    assert crops_block("context224", "0", "found").preprocessing["fill"] == [124, 116, 104]
    with monkeypatch.context() as patch:
        patch.setattr("stages.align.persons.FILL", (0, 0, 0))
        changed = {name: crops_block(name, "0", "found").key for name in names}
    assert {name for name in names if changed[name] != keys[name]} == {"context224", "context112"}
    monkeypatch.setattr(stage, "PERSON_VERSION", 99)
    assert not {crops_block(name, "0", "found").key for name in names} & {*keys.values()}


@pytest.mark.parametrize("name", ["torchvision:resnet50", "torchvision:resnet18"])
def test_the_fill_is_nothing_to_a_network_of_imagenet(name: str) -> None:
    spec = get_spec(name)
    values = [(fill - mean) / std for fill, mean, std in zip(FILL, spec.mean, spec.std, strict=True)]
    assert max(map(abs, values)) < 0.01
