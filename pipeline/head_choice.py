"""Which head `kuleshov finetune NAME --head HEAD` means: one of params.yaml, or a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from stages.errors import SettingError
from stages.finetune.settings import FinetuneSettings, HeadChoice

if TYPE_CHECKING:
    from stages.train.settings import HeadSettings


def with_head(name: str, settings: FinetuneSettings, head: str, heads: Mapping[str, HeadSettings]) -> FinetuneSettings:
    """The settings of fine-tune `name` with this head, in the place of the one they may have.

    Args:
        head: a name of `heads`, whose kind, dropout and options are taken; or `FILE:VARIANT` of `stages/heads/`.
        heads: `train.heads`.

    Raises:
        SettingError: there is no such head, or the settings do not fit a head.
    """
    from stages.heads import registry

    if head in heads:
        one = heads[head]
        choice = HeadChoice(kind=one.kind, dropout=one.dropout, options=one.options)
    elif head in registry.names():
        choice = HeadChoice(kind=head)
    else:
        raise SettingError(
            f"--head {head}: train.heads has {', '.join(sorted(heads))}, and the kinds are "
            f"{', '.join(registry.names())}: use one of these"
        )
    try:
        return settings.with_head(choice)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise SettingError(f"--head {head}: finetune.{name}.{said}") from None
