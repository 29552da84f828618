"""docs/configuration.md is what the models say, and the models say something about every key."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from fleet import config_docs
from fleet.config import FleetConfig, TaskConfig
from fleet.config_docs import document, models_of
from fleet.config_model import Model, Positive
from fleet.robot_config import RobotConfig
from fleet.scene_config import SceneConfig

PAGE = Path(__file__).parents[2] / "docs/configuration.md"


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text() == document(), "run: python -m fleet.config_docs > docs/configuration.md"


def test_a_scene_is_described_once_in_a_section_of_its_own() -> None:
    page = document()
    assert page.count("| `fingertip_radius_m` |") == 1
    assert page.count("\n## A scene: `hardware_configs/worlds/*.yaml`\n") == 1


def test_keys_that_only_the_fleets_file_has_are_described() -> None:
    fleet = document().partition("\n### ")[0]
    assert "| `robot` | file |" in fleet and "| `override` | group |" in fleet


def undescribed(*models: type[BaseModel]) -> list[str]:
    """Fields without a description, of these models and all they hold."""
    seen: set[type[BaseModel]] = set()
    todo = list(models)
    found = []
    while todo:
        model = todo.pop()
        if model in seen:
            continue
        seen.add(model)
        for name, field in model.model_fields.items():
            if not field.description:
                found.append(f"{model.__name__}.{name}")
            todo += models_of(field.annotation)
    return sorted(found)


def test_every_field_of_every_model_is_described() -> None:
    assert undescribed(FleetConfig, *models_of(TaskConfig), SceneConfig, RobotConfig) == []


class Wheel(Model):
    """One wheel."""

    radius_m: Positive = Field(description="Of the tyre (m).")
    colour: Literal["red", "blue"] = "red"


class Cart(Model):
    """Something with wheels."""

    wheels: list[Wheel] = Field(min_length=2, description="From the front.")
    spare: Wheel | None = Field(None, description="null: none.")
    limits_rad: list[Positive] | None = Field(description="Steering | braking.")


def test_a_model_becomes_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_docs, "RobotConfig", Cart)
    page = document()
    assert "| `wheels` | list of group, at least 2 |  | **required** | From the front. |" in page
    assert "| `spare` | group or null |  | `null` | null: none. |" in page
    assert (
        "| `limits_rad` | list of number > 0 or null | rad | **required** | Steering \\| braking. |" in page
    )
    assert "### `wheels[]`, `spare`\n\nOne wheel.\n" in page
    assert "| `radius_m` | number > 0 | m | **required** | Of the tyre (m). |" in page
    assert "| `colour` | `red`, `blue` |  | `red` |  |" in page
    assert undescribed(Cart) == ["Wheel.colour"]
