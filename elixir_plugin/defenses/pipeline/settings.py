"""Settings of a pipeline: its steps, and what each does with what came before.

A step is written as the name of a defense with its settings; options of the step stand beside the name, where no
setting of the defense can be:

.. code-block:: yaml

    steps:
      - confusion_training: {preset: small}
      - dataelixir: {preset: small}
        only: flagged
      - retrain: {recipe: fast}

An option may also stand among the settings of a defense that has no setting of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator
from typing_extensions import Self

from ...core.settings import Settings
from ...defense import Defense, get_defense
from ...errors import SettingsError, nearest
from ...plugins import listed, plugins
from .retrain import RETRAIN, Retrain

NAME = "pipeline"
EXAMPLE = "{confusion_training: {preset: small}}"
PURIFY: dict[str, Any] = {"only": "flagged", "target": "from_flags"}
USUAL: tuple[dict[str, Any], ...] = (
    {"confusion_training": {}},
    {"dataelixir": {"train_final": False}, **PURIFY},
    {"retrain": {}, "drop": "unrepaired"},
    {"d3": {}},
)


class PipelineStep(Settings):
    """One step: a defense, its settings, and what it does with what came before.

    ``{NAME: {…}, OPTION: …}`` and ``NAME`` alone are short forms. The settings are kept with every default spelled out.

    >>> PipelineStep.build({"d3": {"epochs": 5}, "clean_from": "kept"}).settings["epochs"]
    5
    >>> PipelineStep.build({"jpeg": {"quality": 20, "only": "flagged"}}).only
    'flagged'
    """

    step: str = Field(description="name of a defense, or `retrain`: train a model on the set as it is then")
    settings: dict[str, Any] = Field({}, description="settings of the defense; `preset` among them names one")
    only: Literal["flagged"] | None = Field(
        None, description="purify the samples flagged so far; all others stay as they are, bit by bit"
    )
    drop: Literal["flagged", "unrepaired"] | None = Field(
        None,
        description="leave out, from here on, the samples flagged so far; unrepaired: those of them that no step has "
        "changed",
    )
    clean_from: Literal["kept"] | None = Field(
        None, description="add the samples not flagged so far to the reserved clean set; nobody has verified them"
    )
    on: Literal["model", "suspect"] | None = Field(
        None,
        description="which model the step is given: the one that the steps before have made, or the suspect model; "
        "default: the former for a defense that repairs models, the latter for all others",
    )
    target: Literal["from_flags"] | None = Field(
        None, description="tell the defense that the classes with most flagged samples are the targets of the attack"
    )

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, values: Any) -> Any:
        return resolved_step(values, "step")

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    @classmethod
    def under_first_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        own = class_of(str(values["step"])).Settings.under_first_names(values["settings"])
        return {**values, "settings": own}

    @property
    def cls(self) -> type[Defense]:
        """The defense."""
        return class_of(self.step)

    def options(self) -> dict[str, str]:
        """Return the options of the step that are set."""
        return {key: value for key in OPTIONS if (value := getattr(self, key)) is not None}


OPTIONS = tuple(name for name in PipelineStep.model_fields if name not in ("step", "settings"))


class PipelineSettings(Settings):
    """Settings of a pipeline.

    The default steps find poison, purify and relabel what was found, train on the result, and repair the model.
    ``small``: the same for a few thousand images on a CPU. ``demo``: seconds.
    """

    for_a_look = ("demo",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "steps": (
                {"confusion_training": {"preset": "small"}},
                {"dataelixir": {"preset": "small", "train_final": False}, **PURIFY},
                {"retrain": {}, "drop": "unrepaired"},
                {"d3": {}},
            )
        },
        "demo": {
            "steps": (
                {"confusion_training": {"preset": "demo"}},
                {"retrain": {"recipe": {"epochs": 8, "batch_size": 64}}, "drop": "flagged"},
                {"d3": {"epochs": 10}},
            )
        },
    }

    steps: tuple[PipelineStep, ...] = Field(
        cast("tuple[PipelineStep, ...]", USUAL),
        min_length=1,
        description="what is done, in this order; each `{NAME: {SETTING: …}, OPTION: …}`, with the options only, drop, "
        "clean_from, on and target",
    )
    stop_if_clean: bool = Field(
        False, description="end with the first step that looks for poison and finds none, and leave all as it came"
    )

    hold_back: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the flagged samples that is set aside as soon as they are flagged, and neither repaired "
        "nor trained on: what the last model says of them estimates the attack success that is left",
    )

    @field_validator("steps", mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        if isinstance(value, Mapping | str) or not isinstance(value, list | tuple):
            raise _refused("steps are a list", "steps", value, f"[{EXAMPLE}, retrain]")
        return [resolved_step(each, f"steps.{number}") for number, each in enumerate(value, 1)]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for number, step in enumerate(self.steps):
            refuse_unserved(step, self.steps[:number], f"steps.{number + 1} ({step.step})")
        return self


def class_of(name: str) -> type[Defense]:
    """Return the defense behind the name of a step."""
    return Retrain if name == RETRAIN else get_defense(name)


def resolved_step(value: Any, where: str) -> dict[str, Any]:
    """Return a step, given in any form, with its options and every setting of its defense spelled out.

    :raises SettingsError: naming what is wrong with it, and where.
    """
    if isinstance(value, PipelineStep):
        return value.model_dump()
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping):
        raise _refused("not a step", where, value, EXAMPLE)
    if isinstance(value.get("step"), str):
        name, given = value["step"], value.get("settings")
        options = {key: each for key, each in value.items() if key not in ("step", "settings")}
    else:
        names = [key for key in value if key not in OPTIONS]
        if len(names) != 1:
            found = ", ".join(map(str, value)) or "nothing"
            hint = f"options of a step: {', '.join(OPTIONS)}; start each step with a dash of its own"
            raise _refused("a step names one defense", where, found, EXAMPLE, hint)
        name, given = names[0], value[names[0]]
        options = {key: each for key, each in value.items() if key in OPTIONS}
    _refuse_unknown(name, where)
    where = f"{where} ({name})"
    cls = class_of(name)
    own = {} if given is None else given
    if not isinstance(own, Mapping):
        raise _refused("settings of a step are a mapping", where, own, f"{{{name}: {{preset: …}}}}")
    fields = {*cls.Settings.model_fields, *cls.Settings.former}
    inside = {key: each for key, each in own.items() if key in OPTIONS and key not in fields}
    if twice := sorted(inside.keys() & options.keys()):
        raise _refused("an option is given twice", where, ", ".join(twice), "beside the name, or among the settings")
    options |= inside
    own = {key: each for key, each in own.items() if key not in inside}
    if unknown := [key for key in options if key not in OPTIONS]:
        raise _refused("unknown option", where, unknown[0], ", ".join(OPTIONS), nearest(unknown[0], OPTIONS))
    settings = cls.Settings.build(own, where=f"settings of {NAME}: {where}")
    return {"step": name, "settings": settings.dump(), **options}


def refuse_unserved(step: PipelineStep, before: tuple[PipelineStep, ...], where: str) -> None:
    """Refuse options that *step* cannot serve after the steps *before*.

    :raises SettingsError: naming the option, and what it takes.
    """
    cls = step.cls
    flags = any(each.cls.kind == "detect" for each in before)
    for option in ("only", "drop", "clean_from", "target"):
        if getattr(step, option) is not None and not flags:
            raise _refused(
                "nothing has been flagged by then", f"{where}: {option}", getattr(step, option),
                "after a step that detects", "put a defense of kind detect before it, e.g. confusion_training",
            )  # fmt: skip
    if step.only is not None and cls.kind != "purify":
        raise _refused("this step purifies nothing", f"{where}: only", f"{step.step} ({cls.kind})", "kind purify")
    if step.only is not None and step.drop is not None:
        raise _refused("these exclude each other", where, "only and drop", "one of them")
    if step.drop is not None and "train" not in cls.needs:
        raise _refused("this step has no use for the suspect set", f"{where}: drop", step.step,
                       "a step that works on the set", "drop at a step before it, e.g. retrain")  # fmt: skip
    learns = cls.trains_on_clean or cls.needs & {"clean", "denoiser", "generator"}
    if step.clean_from is not None and not learns:
        raise _refused("this step has no use for a reserved clean set", f"{where}: clean_from", step.step)
    if step.on is not None and cls is Retrain:
        raise _refused("retrain starts from fresh weights", f"{where}: on", step.on)
    if step.on == "model" and not any(each.cls.kind != "detect" for each in before):
        raise _refused("no step before makes a model", f"{where}: on", "model", "suspect, or a step that trains before")
    if step.target is not None and cls.aimed is Defense.aimed:
        raise _refused("this defense cannot be told the target", f"{where}: target", step.step)


def _refuse_unknown(name: Any, where: str) -> None:
    known = plugins().offers()["defense"]
    if name == NAME:
        raise _refused("a pipeline is no step", where, NAME, hint="list its steps here")
    if name != RETRAIN and name not in known:
        hint = nearest(str(name), [RETRAIN, *(each for each in known if each != NAME)])
        allowed = f"{RETRAIN}, {listed({each: offer for each, offer in known.items() if each != NAME})}"
        raise _refused("unknown step", where, name, allowed, hint)


def _refused(what: str, where: str, found: Any, allowed: str | None = None, hint: str | None = None) -> SettingsError:
    return SettingsError(what, where=f"settings of {NAME}: {where}", found=found, allowed=allowed, hint=hint)
