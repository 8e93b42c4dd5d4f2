"""``model.json``: what a saved classifier is beside its weights; nothing in it is believed before it is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from ...errors import InputError
from ...io.files import read_json

Number = Annotated[float, Field(allow_inf_nan=False)]


class ModelFacts(BaseModel):
    """What the file holds; see :class:`~elixir_plugin.Classifier` for the meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str | None
    num_classes: int = Field(ge=1, le=1_000_000)
    channels: int = Field(ge=1, le=1024)
    mean: tuple[Number, ...]
    std: tuple[Annotated[Number, Field(gt=0)], ...]
    input_size: int | None = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _per_channel(self) -> Self:
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ValueError(f"mean and std must have one value, or {self.channels}")
        return self


def read_facts(path: Path) -> ModelFacts:
    """Read and check the file.

    :raises InputError: when it is missing or no JSON, a value is of another type or out of range, or a key is unknown.
    """
    try:
        return ModelFacts.model_validate(read_json(path))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}".removeprefix(": ") for each in error.errors()]
        raise InputError(
            "not the facts of a classifier",
            where=path,
            found="; ".join(faults[:4]),
            allowed=", ".join(ModelFacts.model_fields),
            hint="write the folder anew with Classifier(...).save(folder)",
        ) from None
