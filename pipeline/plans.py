"""The roles of a project, resolved to backbones and block keys on this machine."""

from __future__ import annotations

from pipeline.project import Project
from stages.errors import WeightsError
from stages.extract.plan import RolePlan, plan_role


def role_plans(project: Project, detections_key: str) -> tuple[dict[str, RolePlan], dict[str, WeightsError]]:
    """Every role by name: its plan, or why its keys cannot be known (its weights are missing or not the right ones).

    Args:
        detections_key: of the detections block that faces come from.

    Raises:
        SettingError: a setting names what does not exist.
    """
    settings = project.params
    plans: dict[str, RolePlan] = {}
    unknown: dict[str, WeightsError] = {}
    for role in sorted(settings.extract.backbones):
        try:
            plans[role] = plan_role(
                role,
                settings.extract,
                project.weights_folder,
                detections_key,
                settings.detect.faces,
                project.finetunes,
            )
        except WeightsError as error:
            unknown[role] = error
    return plans, unknown
