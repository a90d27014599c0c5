"""The roles of a project, resolved to backbones and block keys on this machine."""

from __future__ import annotations

from pipeline.finetuned import require_as_described
from pipeline.project import Project
from stages.errors import WeightsError
from stages.extract.plan import RolePlan, plan_role
from stages.extract.settings import FOLDER


def plan_of(project: Project, role: str, detections_key: str, digest: str | None = None) -> RolePlan:
    """The plan of a role; see `stages.extract.plan.plan_role` and `require_as_described`, also for what is raised."""
    extract, faces = project.params.extract, project.params.detect.faces
    if digest is None and role in extract.roles:
        require_as_described(project, role)
    return plan_role(role, extract, project.weights_folder, detections_key, faces, project.finetunes, digest)


def role_plans(
    project: Project, detections_key: str, *, of_finetunes: bool = True
) -> tuple[dict[str, RolePlan], dict[str, WeightsError]]:
    """Every role by name: its plan, or why its keys cannot be known (its weights are missing or not the right ones).

    Args:
        detections_key: of the detections block that faces come from.
        of_finetunes: False: a fine-tune's name stands for its weights, which may not be there yet. No block has such
            keys; they tell what else has changed.

    Raises:
        SettingError: a setting names what does not exist.
    """
    plans: dict[str, RolePlan] = {}
    unknown: dict[str, WeightsError] = {}
    for role in sorted(project.params.extract.roles):
        try:
            plans[role] = plan_of(project, role, detections_key, None if of_finetunes else _name_of(project, role))
        except WeightsError as error:
            unknown[role] = error
    return plans, unknown


def _name_of(project: Project, role: str) -> str | None:
    """What stands for the weights of a fine-tuned role. Another project's are there before, as the catalogue's are."""
    name = project.params.extract.roles[role].finetuned
    return None if name is None or name.startswith(FOLDER) else f"finetune:{name}"
