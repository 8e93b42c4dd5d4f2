"""BackdoorBench's flags and YAML keys: how they are read, and what they mean for one of our defenses."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from ...core.draws import Draw
from ...core.settings import Settings, load_yaml
from ...defense import Defense, get_defense
from ...errors import ElixirError, SettingsError, nearest
from ...io.yaml_text import parse_yaml
from ...runs.resolve import identity_of
from ...runs.spec import RunSpec
from ...training.loop import Recipe

TEXT = (  # flags that keep their text, and those that are numbers or switches, by the toolkit's names
    "device",
    "checkpoint_load",
    "checkpoint_save",
    "log",
    "dataset_path",
    "dataset",
    "result_file",
    "lr_scheduler",
    "model",
    "client_optimizer",
    "index",
)
NUMBERS = {
    "epochs": int,
    "batch_size": int,
    "num_workers": float,
    "lr": float,
    "steplr_stepsize": int,
    "steplr_gamma": float,
    "sgd_momentum": float,
    "wd": float,
    "frequency_save": int,
    "random_seed": int,
    "ratio": float,
}
SWITCHES = {"amp": (), "pin_memory": ("-pm",), "non_blocking": ("-nb",), "prefetch": ("-pf",)}
CLEAN_FROM = "clean_from"  # ours: BackdoorBench draws the reserved clean set from the training set alone,
CLEAN_DRAW = "clean_draw"  # and uniformly
ANY_MODEL = "any_model"  # ours, too
SHARED = (*TEXT, *NUMBERS, *SWITCHES, "steplr_milestones", CLEAN_FROM, CLEAN_DRAW, ANY_MODEL)
TRAINING = {  # their name -> ours, in settings and recipes
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "lr",
    "lr_scheduler": "schedule",
    "client_optimizer": "optimizer",
    "sgd_momentum": "momentum",
    "wd": "weight_decay",
    "amp": "precision",
}
SCHEDULERS = {"CosineAnnealingLR": "cosine"}
TRAINS_AFTER = ("detect", "purify")  # a record's defense_result.pt holds a model, so one is trained on what these leave


@dataclass
class _Places:
    """Settings of the defense, and of the training on what it leaves."""

    own: dict[str, Any]
    retrain: dict[str, Any]


@dataclass
class Request:
    """One call of a placed script.

    :param values: everything given, by the toolkit's names; the command line wins over the YAML file.
    :param unused: keys that were given and mean nothing here.
    """

    values: dict[str, Any]
    unused: list[str] = field(default_factory=list)


def read_request(cls: type[Defense], root: Path, arguments: Sequence[str]) -> Request:
    """Read flags and YAML file.

    :raises SettingsError: for unknown flags and keys, and values of another type.
    """
    flags = vars(_parser(cls, root).parse_args(list(arguments)))
    path = flags.pop("yaml_path")
    given = {key: value for key, value in flags.items() if value is not None}
    values = {**_known_keys(cls, load_yaml(Path(path)), path), **given}
    if values.get("result_file") is None:
        raise SettingsError("which record?", where="--result_file", hint="name a folder below record")
    return Request(values)


def flags_of(defense: str, root: Path) -> list[str]:
    """Return every flag that the script of *defense* has; none where there is no such defense."""
    try:
        actions = _parser(get_defense(defense), root)._actions
    except ElixirError:
        return []
    return [flag for action in actions for flag in action.option_strings]


def to_spec(cls: type[Defense], request: Request, root: Path, out: Path) -> RunSpec:
    """Turn a request into a run; what the defense has no use for ends up in ``request.unused``.

    :param out: folder that run folders go to.
    """
    values = request.values
    own = {key: values[key] for key in cls.Settings.model_fields if values.get(key) is not None and key not in SHARED}
    places = _Places(own, {})
    one = len(cls.possible_kinds()) == 1  # else the settings decide
    trains_after = (cls if one else cls(own, preset=values.get("preset"))).kind in TRAINS_AFTER
    for key in TRAINING:
        value = _translated(key, values.get(key), request)
        if value is not None:
            _place(cls, key, value, places, request, trains_after=trains_after)
    idle = ("num_workers", "pin_memory", "non_blocking", "prefetch", "frequency_save", "checkpoint_load")
    for key in (*idle, "steplr_stepsize", "steplr_gamma", "steplr_milestones"):
        if values.get(key):
            request.unused.append(f"{key}: {values[key]}")
    options: dict[str, Any] = {"clean_ratio": values["ratio"]} if values.get("ratio") is not None else {}
    named = (("index", "index"), ("model", "architecture"), (CLEAN_FROM, CLEAN_FROM), (CLEAN_DRAW, CLEAN_DRAW))
    options |= {name: values[key] for key, name in named if values.get(key)}
    if values.get("dataset_path"):
        options["data"] = str(_from_root(root, values["dataset_path"]) / str(values.get("dataset", "")))
    spec: dict[str, Any] = {
        "defense": cls.name,
        "source": {"adapter": "backdoorbench", "path": str(record_of(root, values)), "options": options},
        "settings": places.own,
        "preset": values.get("preset"),
        "retrain": places.retrain if trains_after else None,
        "seed": values.get("random_seed") or 0,
        "device": _device(str(values.get("device") or "auto"), request),
        "any_model": bool(values.get(ANY_MODEL)),
    }
    built = RunSpec.build(spec, where="flags")
    return built.model_copy(update={"out": str(out / identity_of(built))})


def record_of(root: Path, values: Mapping[str, Any]) -> Path:
    """Return the folder of the record; ``--result_file`` is relative to ``record``."""
    return root / "record" / str(values["result_file"])


def _from_root(root: Path, path: str) -> Path:
    return path_ if (path_ := Path(path)).is_absolute() else root / path


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        known = [flag for action in self._actions for flag in action.option_strings]
        words = [word for word in message.split() if word.startswith("--")]
        hint = next(filter(None, (nearest(word.partition("=")[0], known) for word in words)), None)
        raise SettingsError(message, where="command line", hint=hint or "--help lists all flags")


def _parser(cls: type[Defense], root: Path) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"defense/{cls.name}.py", description=cls.card.title, allow_abbrev=False)
    default = root / "config" / "defense" / cls.name / "config.yaml"
    parser.add_argument("--yaml_path", default=str(default), help="defaults for all flags")
    shared = parser.add_argument_group("flags of the toolkit")
    for name in TEXT:
        shared.add_argument(f"--{name}")
    for name, kind in NUMBERS.items():
        shared.add_argument(f"--{name}", type=kind)
    shared.add_argument("--steplr_milestones")
    for name, short in SWITCHES.items():
        shared.add_argument(f"--{name}", *short, type=_switch, metavar="True|False")
    shared.add_argument(f"--{CLEAN_FROM}", choices=("train", "test"), help="test: test images, which are not scored")
    text = "go on with a model that does not fit the clean labels"
    shared.add_argument(f"--{ANY_MODEL}", type=_switch, metavar="True|False", help=text)
    draw_help = "uniform: the toolkit's own draw, which may leave out small classes"
    shared.add_argument(f"--{CLEAN_DRAW}", choices=get_args(Draw), help=draw_help)
    group = parser.add_argument_group(f"settings of {cls.name}", "values are YAML, e.g. --fit '{iterations: 500}'")
    group.add_argument("--preset", choices=sorted(cls.Settings.presets) or None)
    for name, each in cls.Settings.model_fields.items():
        if name not in SHARED:
            value = partial(parse_yaml, where=f"--{name}", what="value is not YAML")
            group.add_argument(f"--{name}", type=value, help=(each.description or "").replace("%", "%%"))
    return parser


def _switch(text: str) -> bool:
    return text in ("True", "true", "1")


def _known_keys(cls: type[Defense], content: Mapping[str, Any], path: str) -> dict[str, Any]:
    known = (*SHARED, "preset", *cls.Settings.model_fields)
    for key in content:
        if key not in known:
            raise SettingsError(
                "unknown key",
                where=path,
                found=key,
                allowed=", ".join(known),
                hint=nearest(key, known),
            )
    return {key: value for key, value in content.items() if value is not None}


def _place(cls: type[Defense], key: str, value: Any, places: _Places, request: Request, *, trains_after: bool) -> None:
    """Put one training value where this defense has it: its own settings, its recipe, or the training after it."""
    fields, name = cls.Settings.model_fields, TRAINING[key]
    recipes = [each for each in fields if _is_recipe(cls.Settings, each)]
    if name in fields:
        places.own[name] = value
    elif recipes:
        for each in recipes:
            given = places.own.get(each) or {}
            if not isinstance(given, Mapping):
                raise SettingsError(
                    "a recipe is a mapping", where=each, found=given, allowed=f"e.g. '{{{name}: {value}}}'"
                )
            places.own[each] = {**given, name: value}
    elif trains_after:
        places.retrain[name] = value
    else:
        request.unused.append(f"{key}: {value}")


def _is_recipe(settings: type[Settings], name: str) -> bool:
    kind = settings.model_fields[name].annotation
    return isinstance(kind, type) and issubclass(kind, Recipe)


def _translated(key: str, value: Any, request: Request) -> Any:
    if value is None:
        return None
    if key == "amp":
        return "auto" if value else "float32"
    if key == "lr_scheduler":
        if value not in SCHEDULERS:
            request.unused.append(f"{key}: {value}")
        return SCHEDULERS.get(value)
    return value


def _device(name: str, request: Request) -> str:
    """Return the first device of a list like ``cuda:0,1``; work is not split over several here."""
    first, comma, _ = name.partition(",")
    if comma:
        request.unused.append(f"device: {name}, all but the first")
    return first
