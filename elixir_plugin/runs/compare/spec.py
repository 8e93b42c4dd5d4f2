"""What a comparison is: cases × defenses × seeds, as written in a YAML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from ...adapter import Source
from ...core.settings import Settings, load_yaml, usable_path
from ..spec import RunSpec

Seed = Annotated[int, Field(ge=0)]


class CaseSpec(Settings):
    """One case of a comparison; ``ADAPTER:PATH`` alone is the short form."""

    source: str = Field(description="ADAPTER:PATH, e.g. testbed:badnets or backdoorbench:record/badnet_0_1")
    options: dict[str, Any] = Field({}, description="options of the adapter")
    name: str | None = Field(None, min_length=1, description="how tables call it; default: the end of the path")

    @field_validator("source")
    @classmethod
    def _has_both_parts(cls, value: str) -> str:
        Source.parse(value, where="cases: source")
        return value

    @property
    def place(self) -> Source:
        """Where the case comes from."""
        return Source.parse(self.source, self.options)

    @property
    def label(self) -> str:
        """How tables call the case."""
        return self.name or Path(self.place.path).name or self.source


class DefenseSpec(Settings):
    """One defense of a comparison, with settings; its name alone is the short form."""

    defense: str = Field(description="name of the defense; see 'elixir-plugin list'")
    preset: str | None = Field(None, description="named settings below `settings`")
    settings: dict[str, Any] = Field({}, description="settings of the defense")
    name: str | None = Field(None, min_length=1, description="how tables call it; default: the defense and its preset")

    @property
    def label(self) -> str:
        """How tables call the defense."""
        return self.name or (self.defense if self.preset is None else f"{self.defense} ({self.preset})")


class CompareSpec(Settings):
    """Every case under every defense and every seed; the content of a compare file.

    >>> spec = CompareSpec.build({"cases": ["testbed:badnets"], "defenses": ["d3"], "seeds": [0, 1]})
    >>> [(run.defense, run.seed, run.source.path) for _, _, run in spec.runs()]
    [('d3', 0, 'badnets'), ('d3', 1, 'badnets')]
    """

    added: ClassVar[Mapping[str, Any]] = MappingProxyType({"relearn": False})

    cases: tuple[CaseSpec, ...] = Field(min_length=1, description="what is defended")
    defenses: tuple[DefenseSpec, ...] = Field(min_length=1, description="by what")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="one run of each cell under each; 0 or more")
    retrain: dict[str, Any] | None = Field(
        {}, description="how a model is trained on what a defense leaves, when it hands back none; null: not at all"
    )
    controls: bool = Field(False, description="also train models without the denoiser, and on the clean set alone")
    relearn: bool = Field(
        False, description="also measure how fast a few poison samples bring the backdoor back; implies retrain"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    any_model: bool = Field(False, description="go on with suspect models that do not fit the labels")
    out: str | None = Field(None, description="folder of the comparison; default: runs/compare-NAME")

    _usable_path = field_validator("out")(usable_path)

    @field_validator("cases", mode="before")
    @classmethod
    def _short_cases(cls, value: Any) -> Any:
        return _spelled_out(value, "source")

    @field_validator("defenses", mode="before")
    @classmethod
    def _short_defenses(cls, value: Any) -> Any:
        return _spelled_out(value, "defense")

    @model_validator(mode="after")
    def _tells_apart(self) -> Self:
        for what, names in (
            ("cases", [each.label for each in self.cases]),
            ("defenses", [each.label for each in self.defenses]),
            ("seeds", [str(seed) for seed in self.seeds]),
        ):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"{what}: {twice[0]!r} occurs twice; give each a `name` of its own")
        return self

    @classmethod
    def from_yaml(cls, path: Path) -> CompareSpec:
        """Read a compare file.

        :raises SettingsError: when it is missing, no YAML, or holds what is not allowed.
        """
        return cls.build(load_yaml(path), where=str(path))

    def runs(self) -> list[tuple[str, str, RunSpec]]:
        """Return ``(case, defense, run)`` for every cell, case by case, and under each seed defense by defense.

        So neighbours share a case, which may be kept in a cache. The result of a cell does not depend on the others.
        """
        return [
            (
                case.label,
                defense.label,
                RunSpec(
                    defense=defense.defense,
                    source=case.place,
                    preset=defense.preset,
                    settings=defense.settings,
                    retrain=self.retrain,
                    controls=self.controls,
                    relearn=self.relearn,
                    seed=seed,
                    device=self.device,
                    any_model=self.any_model,
                    write_back=False,
                ),
            )
            for case in self.cases
            for seed in self.seeds
            for defense in self.defenses
        ]


def _spelled_out(value: Any, key: str) -> Any:
    """Turn the short form of list items, a text, into a mapping with that one *key*."""
    if not isinstance(value, list | tuple):
        return value
    return [{key: each} if isinstance(each, str) else each for each in value]
