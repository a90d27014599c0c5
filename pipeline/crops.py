"""Which crops a project wants: those that its roles see, that its fine-tunes are trained on, and that heads read."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.project import Project
from stages.align.templates import find_any, template_of
from stages.backbones.registry import get_spec
from stages.errors import SettingError
from stages.extract.plan import RolePlan, resolve_backbone
from stages.extract.plan import template_of as template_of_role


def templates_of_heads(project: Project) -> list[str]:
    """Names of the templates whose pixels heads read (`inputs` of `train.heads`), sorted.

    Raises:
        SettingError: there is no such template.
    """
    found: set[str] = set()
    for head, settings in project.params.train.heads.items():
        for name, blocks in settings.inputs.items():
            for template in filter(None, map(template_of, blocks)):
                try:
                    found.add(find_any(template).name)
                except SettingError as error:
                    raise SettingError(f"train.heads.{head}.inputs.{name}: {error}") from None
    return sorted(found)


def templates_of_finetunes(project: Project) -> list[str]:
    """Names of the templates of the crops that backbones are trained on, sorted."""
    specs = [get_spec(one.backbone) for one in project.params.finetune.values()]
    return sorted({spec.template for spec in specs if spec.template})


def templates_of(project: Project) -> list[str]:
    """Names of all templates that a project wants, sorted.

    Raises:
        SettingError: a setting names what does not exist.
    """
    settings = project.params.extract
    found = {*templates_of_finetunes(project), *templates_of_heads(project)}
    for role in settings.roles:
        spec, _ = resolve_backbone(role, settings, project.weights_folder)
        if template := template_of_role(role, settings, spec):
            found.add(template)
    return sorted(found)


def templates_read(project: Project, plans: Iterable[RolePlan]) -> list[str]:
    """Names of the templates that these roles see and that heads read, sorted.

    Raises:
        SettingError: there is no such template.
    """
    return sorted({*templates_of_heads(project), *(plan.template for plan in plans if plan.template)})
