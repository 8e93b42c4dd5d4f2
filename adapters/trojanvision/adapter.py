"""TrojanZoo's vision part: every defense as a class in ``trojanvision.defenses.class_dict``.

.. code-block:: sh

    # a script of yours, or of trojanzoo's examples, that parses its arguments itself
    python -m elixir_plugin.adapters.trojanvision examples/backdoor_defense.py --attack badnet --defense d3 --d3_lam 0.5
    # the same without a script: all parts created from the command line, then the defense
    python -m elixir_plugin.adapters.trojanvision --dataset cifar10 --model resnet18_comp --attack badnet --defense d3

Or in Python, before arguments are parsed: ``elixir_plugin.adapters.trojanvision.register()``. The settings of a
defense are arguments ``--<defense>_<setting>``, and keys of ``configs/trojanvision/<defense>.yml``.

trojanvision is imported when :func:`register` is called. It is distributed as ``trojanzoo``; release 2.0.3 needs
Python 3.11 and matplotlib before 3.9.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ...api.registry import register_into
from ...defense import Defense, get_defense
from ...errors import PluginError
from .defenses import Behaviour, Filtering, Repairing, Training

KINDS: dict[str, tuple[type[Behaviour], str]] = {  # kind of defense -> behaviour, trojanvision's base
    "detect": (Filtering, "TrainingFiltering"),
    "purify": (Training, "BackdoorDefense"),
    "train": (Training, "BackdoorDefense"),
    "repair": (Repairing, "BackdoorDefense"),
}


def register(registry: Any = None, *, replace: bool = False, baselines: bool = False) -> dict[str, Any]:
    """Put every defense into trojanvision's registry, and return name -> class. Calling it again changes nothing.

    :param registry: default: ``trojanvision.defenses.class_dict``.
    :param replace: let our names replace others that are there.
    :param baselines: the baselines too.
    :raises PluginError: when trojanvision cannot be imported.
    :raises SettingsError: when a name is taken by somebody else.
    """
    held = _defenses().class_dict if registry is None else registry
    own = [name for name, cls in held.items() if issubclass(cls, Behaviour)]
    for name in own:
        del held[name]
    return register_into(held, defense_class, replace=replace, baselines=baselines)


def defense_class(name: str) -> Any:
    """Return the class that is the defense *name* in trojanvision."""
    return _made(get_defense(name))


@cache
def _made(cls: type[Defense]) -> Any:
    """Join our behaviour with trojanvision's base."""
    behaviour, base = KINDS[cls.kind]
    names = {
        "__module__": __package__,
        "__doc__": f"{cls.card.title} in trojanvision: {cls.card.claims}.\n\n{behaviour.__doc__}",
        "name": cls.name,
        "defense": cls,
    }
    return type(cls.__name__, (behaviour, getattr(_defenses(), base)), names)


def _defenses() -> Any:
    try:
        import trojanvision.defenses  # noqa: PLC0415
    except ImportError as error:
        raise PluginError(
            "trojanvision cannot be imported",
            where=__name__,
            found=" ".join(str(error).split()),
            hint='pip install "elixir_plugin[trojanvision]" (Python 3.11 or newer; matplotlib before 3.9)',
        ) from error
    return trojanvision.defenses
