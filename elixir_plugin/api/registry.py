"""Put every defense into a host's own registry, whatever that looks like; baselines where they are asked for.

.. code-block:: python

    register_into(DEFENSES)                             # a dict: DEFENSES["d3"](epochs=20).run(case)
    register_into(registry, style="factory")            # registry.build(dict(type="d3", epochs=20))
    register_into(register_defense, style="function")   # get_defense("d3")(model, clean_set, epochs=20)
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, MutableMapping
from typing import Any, Literal

from ..defense import get_defense
from ..errors import PluginError, SettingsError, nearest
from ..plugins import listed, plugins

Style = Literal["class", "factory", "function"]
NAMING = ("name", "key", "alias")  # what registries call the parameter that takes the name


def register_into(
    registry: Any,
    style: Style | Callable[[str], Any] = "class",
    *,
    only: Collection[str] | None = None,
    kinds: Collection[str] | None = None,
    replace: bool = False,
    baselines: bool = False,
) -> dict[str, Any]:
    """Register defenses with a host.

    :param registry: a dict or other mutable mapping; an object with ``register_module(name=…, module=…)``; an object
        whose ``register`` is a function or decorator; or such a function itself: ``f(name, thing)``,
        ``f(name)(thing)``, or ``f(thing)``, which takes the name from ``thing.__name__``.
    :param style: what is registered. ``"class"``: the subclass of :class:`~elixir_plugin.Defense`. ``"factory"``: a
        function that takes settings and returns a ready defense; it imports the defense when it is called.
        ``"function"``: one that does it all, as :mod:`elixir_plugin.api.functions` does: ``f(model, clean, …)`` for
        defenses that repair models, ``f(data, …)`` for all others. Or your own function from name to thing.
    :param only: these names alone, which may be those of baselines.
    :param kinds: these kinds alone, e.g. ``{"repair"}``.
    :param replace: let our names replace those that are there.
    :param baselines: the baselines too, where *only* does not say what.
    :return: name -> what was registered. A defense that cannot be imported is logged and left out.
    :raises SettingsError: when a name is unknown or taken, or the registry is not understood; a mapping is then
        unchanged.
    :raises PluginError: when the host's own registry refuses.

    >>> sorted(register_into({}, style="factory", kinds={"detect"}))
    ['confusion_training']
    """
    make = _maker(style)
    put = _putter(registry)
    names = _chosen(only, kinds, baselines=baselines)
    if isinstance(registry, MutableMapping) and not replace and (taken := [name for name in names if name in registry]):
        raise SettingsError("name is taken", where="registry", found=", ".join(taken), hint="replace=True, or only=…")
    things = {name: thing for name in names if (thing := _made(make, name)) is not None}
    for name, thing in things.items():
        try:
            put(name, thing)
        except Exception as error:  # a host's registry may fail in any way
            raise PluginError(
                "the registry refuses this defense", where=name, found=f"{type(error).__name__}: {error}"
            ) from error
    return things


def factory(name: str) -> Callable[..., Any]:
    """Return a function that takes settings and returns the defense called *name*."""

    def make(**settings: Any) -> Any:
        return get_defense(name)(**settings)

    return _named(make, name)


def function(name: str) -> Callable[..., Any]:
    """Return a function that runs the defense called *name* on what a host has in memory."""
    if plugins().offers()["defense"][name].entry.kind == "repair":

        def repair(model: Any, clean: Any, **options: Any) -> Any:
            from .functions import defend  # noqa: PLC0415  (imports torch)

            return defend(name, model=model, clean=clean, **options)

        return _named(repair, name)

    def treat(data: Any, **options: Any) -> Any:
        from .functions import defend  # noqa: PLC0415  (imports torch)

        return defend(name, train=data, **options)

    return _named(treat, name)


def _maker(style: Style | Callable[[str], Any]) -> Callable[[str], Any]:
    if callable(style):
        return style
    styles: dict[str, Callable[[str], Any]] = {"class": get_defense, "factory": factory, "function": function}
    if style not in styles:
        raise SettingsError(
            "unknown style", where="style", found=style, allowed=", ".join(styles), hint=nearest(str(style), styles)
        )
    return styles[style]


def _chosen(only: Collection[str] | None, kinds: Collection[str] | None, *, baselines: bool) -> list[str]:
    offers = plugins().offers()["defense"]
    for name in only or ():
        if name not in offers:
            raise SettingsError(
                "unknown defense", where="only", found=name, allowed=listed(offers), hint=nearest(name, offers)
            )
    names = sorted(only if only is not None else offers if baselines else plugins().defenses())
    return [name for name in names if kinds is None or offers[name].entry.kind in kinds]


def _made(make: Callable[[str], Any], name: str) -> Any:
    try:
        return make(name)
    except PluginError as error:
        logging.getLogger(__name__).warning("%s is left out: %s", name, error)
        return None


def _named(thing: Callable[..., Any], name: str) -> Callable[..., Any]:
    thing.__name__ = thing.__qualname__ = name
    thing.__doc__ = plugins().offers()["defense"][name].entry.summary
    return thing


def _putter(registry: Any) -> Callable[[str, Any], None]:
    """Return how a thing gets into *registry* under a name."""
    if isinstance(registry, MutableMapping):
        return registry.__setitem__
    if callable(module := getattr(registry, "register_module", None)):
        return lambda name, thing: module(name=name, module=thing)
    call = getattr(registry, "register", registry)
    if not callable(call):
        raise SettingsError(
            "not a registry", where="registry", found=type(registry).__name__,
            allowed="a mapping, an object with register or register_module, or a function (name, thing)",
        )  # fmt: skip
    return _calling(call)


def _calling(call: Callable[..., Any]) -> Callable[[str, Any], None]:
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    placed = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if len([each for each in placed if each.default is each.empty]) >= 2:
        return call
    if placed and placed[0].name in NAMING:
        return lambda name, thing: call(name)(thing)
    if placed:
        return lambda _, thing: call(thing)
    raise SettingsError(
        "it is unclear how this registry is called", where="registry", found=getattr(call, "__name__", call),
        hint="pass a function: lambda name, thing: …",
    )  # fmt: skip
