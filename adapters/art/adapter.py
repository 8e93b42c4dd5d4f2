"""The Adversarial Robustness Toolbox: every defense as a subclass of ART's own bases.

.. code-block:: python

    from elixir_plugin.adapters.art import ConfusionTrainingDetector, D3Transformer, EclipsePreprocessor

    report, is_clean = ConfusionTrainingDetector(classifier, x, y, x_clean=xc, y_clean=yc).detect_poison()
    repaired = D3Transformer(classifier, epochs=20)(x_clean, y=y_clean)
    classifier = PyTorchClassifier(…, preprocessing_defences=EclipsePreprocessor(xc, yc, preset="cpu"))

The classes are made from what is registered, so that defenses of third parties have theirs too:

======== ================================= ========================================================
kind      classes                          ART's base
======== ================================= ========================================================
detect    ``<Name>Detector``               ``defences.detector.poison.PoisonFilteringDefence``
purify    ``<Name>Preprocessor``           ``defences.preprocessor.PreprocessorPyTorch``
repair    ``<Name>Transformer``            ``defences.transformer.Transformer``
all but   ``<Name>Trainer``                ``defences.trainer.Trainer``
repair
======== ================================= ========================================================

A defense whose kind depends on its settings has the classes of all kinds it may have, as a pipeline does.
:func:`art_defence` finds them by the defense's name. ART is imported when the first class is made.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ...defense import Defense, get_defense
from ...errors import PluginError, SettingsError, nearest
from ...plugins import plugins
from .detector import Detector
from .models import Trainer, Transformer
from .params import Configured
from .preprocessor import Preprocessor

FAMILIES: dict[str, tuple[type[Configured], frozenset[str]]] = {  # suffix -> behaviour, kinds of defense
    "Detector": (Detector, frozenset({"detect"})),
    "Preprocessor": (Preprocessor, frozenset({"purify"})),
    "Transformer": (Transformer, frozenset({"repair"})),
    "Trainer": (Trainer, frozenset({"train", "detect", "purify"})),
}


def art_defence(name: str, family: str | None = None) -> Any:
    """Return the class that is the defense *name* in ART.

    :param family: ``"detector"``, ``"preprocessor"``, ``"transformer"`` or ``"trainer"``; default: the one that
        belongs to the defense's kind.
    :raises SettingsError: for an unknown defense, or a family it has no place in.
    :raises PluginError: when ART is not installed.
    """
    cls = get_defense(name)
    possible = _families(cls)
    if family is not None and family.capitalize() not in possible:
        raise SettingsError(
            f"{name} has no such class", where="family", found=family, allowed=", ".join(map(str.lower, possible))
        )
    return _made(cls, possible[0] if family is None else family.capitalize())


def _families(cls: type[Defense]) -> list[str]:
    """Return the families that a defense has a place in, that of its own kind first."""
    found = [suffix for suffix, (_, kinds) in FAMILIES.items() if kinds & cls.possible_kinds()]
    return sorted(found, key=lambda suffix: cls.kind not in FAMILIES[suffix][1])


@cache
def _made(cls: type[Defense], suffix: str) -> Any:
    """Join our behaviour with ART's base."""
    behaviour, _ = FAMILIES[suffix]
    fields = list(cls.Settings.model_fields)
    names = {
        "__module__": __package__,
        "__qualname__": f"{cls.__name__}{suffix}",
        "__doc__": f"{cls.card.title} in ART: {cls.card.claims}.\n\n{behaviour.__doc__}",
        "defense": cls,
        "params": [*behaviour.own, *fields],
        "defence_params": [*behaviour.own, *fields],
    }
    return type(f"{cls.__name__}{suffix}", (behaviour, _base(suffix)), names)


def _base(suffix: str) -> type:
    try:
        from art.defences.detector.poison import PoisonFilteringDefence  # noqa: PLC0415
        from art.defences.preprocessor.preprocessor import PreprocessorPyTorch  # noqa: PLC0415
        from art.defences.trainer import Trainer as ArtTrainer  # noqa: PLC0415
        from art.defences.transformer import Transformer as ArtTransformer  # noqa: PLC0415
    except ImportError as error:
        raise PluginError(
            "ART cannot be imported", where=__name__, found=error, hint='pip install "elixir_plugin[art]"'
        ) from error
    bases: dict[str, type] = {
        "Detector": PoisonFilteringDefence,
        "Preprocessor": PreprocessorPyTorch,
        "Transformer": ArtTransformer,
        "Trainer": ArtTrainer,
    }
    return bases[suffix]


def _class_names(*, baselines: bool = False) -> dict[str, tuple[str, str]]:
    """Return class name -> (defense, family), for all that can be imported, baselines last; the first keeps a name."""
    found: dict[str, tuple[str, str]] = {}
    for name in [*sorted(plugins().defenses()), *(sorted(plugins().baselines()) if baselines else ())]:
        try:
            cls = get_defense(name)
        except PluginError:
            continue
        for suffix in _families(cls):
            found.setdefault(f"{cls.__name__}{suffix}", (name, suffix))
    return found


def __getattr__(name: str) -> Any:
    if not name.endswith(tuple(FAMILIES)):
        raise AttributeError(f"module {__package__!r} has no attribute {name!r}")
    known = _class_names(baselines=True)
    if name not in known:
        hint = nearest(name, known) or f"there are: {', '.join(known)}"
        raise AttributeError(f"module {__package__!r} has no attribute {name!r}; {hint}")
    return art_defence(*known[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *_class_names()})
