"""What all config models have in common: the base class and the kinds of values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Vector3 = tuple[float, float, float]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Topic = Annotated[str, Field(pattern=r"^[~/]?[A-Za-z_][A-Za-z0-9_/]*$", max_length=200)]


class Model(BaseModel):
    """Base of all configs: unknown keys, infinities and NaN are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
