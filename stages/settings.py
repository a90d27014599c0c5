"""The base of every room's settings: frozen, typed, and strict about names."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings of a stage. An unknown name, a wrong type or a value out of range is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
