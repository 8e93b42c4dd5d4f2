"""What ``elixir-plugin toolkit install backdoorbench`` places: a script and YAML files for each defense."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ...adapter import Placement
from ...defense import get_defense
from ...plugins import plugins
from ..common.templates import filled, refuse_other_folder
from .flags import SHARED

MARKS = ("attack", "config/defense", "defense/base.py", "utils/save_load_attack.py")
CONFIGS = ("config", "cifar10", "cifar100", "gtsrb", "tiny")  # file names; "config" is the one for cifar10 again


def checkout_files(root: Path, defenses: Sequence[str]) -> Placement:
    """Return ``defense/<name>.py`` and ``config/defense/<name>/*.yaml`` for each of *defenses*.

    :raises InputError: when *root* is no checkout of BackdoorBench.
    """
    refuse_other_folder(root, "BackdoorBench", MARKS)
    files = {}
    for name in defenses:
        summary = plugins().offers()["defense"][name].entry.summary
        files[f"defense/{name}.py"] = filled("backdoorbench_defense.py.tmpl", name=name, summary=summary)
        for config in CONFIGS:
            dataset = "cifar10" if config == "config" else config
            files[f"config/defense/{name}/{config}.yaml"] = _config(name, dataset)
    return Placement("backdoorbench", files, tuple(defenses))


def _config(name: str, dataset: str) -> str:
    """Return a YAML file with every setting of the defense: empty, its default beside it."""
    settings = get_defense(name).Settings
    lines = []
    for key, field in settings.model_fields.items():
        if key not in SHARED:
            default = field.get_default(call_default_factory=True)
            lines.append(f"{key}:".ljust(24) + f"# {_short(default)}".rstrip())
    preset = dataset if dataset in settings.presets else ""
    return filled(
        "backdoorbench_config.yaml.tmpl", name=name, dataset=dataset, preset=preset, settings="\n".join(lines)
    )


def _short(default: Any) -> str:
    plain = default.dump() if hasattr(default, "dump") else list(default) if isinstance(default, tuple) else default
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("\n...\n").strip()
    return text if len(text) <= 90 else "several values: see 'elixir-plugin show'"
