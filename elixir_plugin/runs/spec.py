"""What a run is asked for: a defense, a source, settings, and where the results go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field, field_validator

from ..adapter import Source, get_adapter
from ..core.settings import Settings, fingerprint, load_yaml, usable_path
from ..defense import get_defense
from ..evaluation.retraining import Retraining
from ..io.checked import refuse_newer
from ..io.environment import MOST

SCHEMA = 1  # of the run.yaml in a run folder; those of earlier versions have none


class RunSpec(Settings):
    """Everything that defines a run; the content of a run file and of ``run.yaml`` in a run folder."""

    added: ClassVar[Mapping[str, Any]] = MappingProxyType({"relearn": False, "spike": None, "recommend": False})

    defense: str = Field(description="name of the defense")
    source: Source = Field(description="where the case is; ADAPTER:PATH is the short form")
    preset: str | None = Field(None, description="named settings below `settings`")
    settings: dict[str, Any] = Field({}, description="settings of the defense")
    retrain: dict[str, Any] | None = Field(None, description="train a model on the sanitised set; see Retraining")
    controls: bool = Field(False, description="also train models without the denoiser, and on the clean set alone")
    relearn: bool = Field(
        False, description="also measure how fast a few poison samples bring the backdoor back; implies retrain"
    )
    spike: dict[str, Any] | None = Field(
        None, description="plant known poisons in copies of the suspect set; see Spike. A list names the poisons alone"
    )
    recommend: bool = Field(
        False, description="also measure, on reserved clean images, whether the denoiser is worth its cost"
    )
    seed: int = Field(0, ge=0, description="the one seed of the run")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    threads: int | None = Field(
        None, ge=1, le=MOST, description="of the CPU; default: as many as the run began with, else as torch takes"
    )
    any_model: bool = Field(False, description="go on with a suspect model that does not fit the labels")
    out: str | None = Field(None, description="run folder; default: runs/DEFENSE-CASE-HASH")
    write_back: bool = Field(True, description="also write files in the toolkit's own format, where it looks for them")
    write_to: str | None = Field(None, description="write them there instead")

    _usable = field_validator("out", "write_to")(usable_path)

    @field_validator("spike", mode="before")
    @classmethod
    def _list_of_poisons(cls, value: Any) -> Any:
        return {"poisons": list(value)} if isinstance(value, list | tuple) else value

    @classmethod
    def from_yaml(cls, path: Path) -> RunSpec:
        """Read a run file. ``source`` may be written short, as ``ADAPTER:PATH``."""
        values = load_yaml(path)
        refuse_newer(values, SCHEMA, path)
        for noted in ("identity", "schema"):  # in the run.yaml of a run folder
            values.pop(noted, None)
        if isinstance(values.get("source"), str):
            values["source"] = Source.parse(values["source"], where=f"{path}: source").dump()
        return cls.build(values, where=str(path))

    def identity(self) -> str:
        """Hash of what decides the result: where the output goes does not, nor what settings are called today.

        Left out are threads too, as are versions and processor: they change a result by rounding, on which see
        :mod:`elixir_plugin.io.environment`, and a run that goes on keeps them.
        """
        values = self.model_dump(mode="json", exclude={"any_model", "threads", "out", "write_back", "write_to"})
        values["settings"] = get_defense(self.defense).Settings.under_first_names(values["settings"])
        if values["retrain"] is not None:
            values["retrain"] = Retraining.under_first_names(values["retrain"])
        options = values["source"]["options"]
        values["source"]["options"] = get_adapter(self.source.adapter).Options.under_first_names(options)
        return fingerprint(self.under_first_names(values))
