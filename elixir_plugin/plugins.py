"""The plugin manager: guarded loading, refusal of duplicate names, origin and failure of each plugin.

One broken plugin is recorded and left out; it never stops the rest. ``ELIXIR_PLUGINS`` limits what is loaded: a
comma-separated list of distribution names; empty means "only what is built in".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from . import hookspecs
from .errors import PluginError, SettingsError, nearest
from .hookspecs import PROJECT, Entry

KINDS = {  # what can be asked for -> the hook that offers it
    "defense": "elixir_defenses",
    "adapter": "elixir_adapters",
    "architecture": "elixir_architectures",
    "poison": "elixir_poisons",
    "denoiser": "elixir_denoisers",
    "generator": "elixir_generators",
}
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Offer:
    """An entry together with the plugin it came from."""

    entry: Entry
    origin: str


@dataclass
class PluginInfo:
    """What ``elixir-plugin plugins`` shows of one plugin."""

    name: str
    version: str
    hooks: list[str] = field(default_factory=list)
    broken: str = ""  # why the whole plugin is left out
    refused: list[str] = field(default_factory=list)  # single offers left out


class Plugins:
    """All loaded plugins and what they offer.

    :param points: entry points to load, or None for the installed ones of group ``elixir_plugin``.
    """

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, PluginInfo] = {}
        self._offers: dict[str, dict[str, Offer]] | None = None
        for point in sorted(_wanted(entry_points(group=PROJECT) if points is None else points), key=_order):
            self._load(point)

    def register(self, plugin: object, name: str, version: str = "") -> None:
        """Add one plugin object.

        :raises PluginError: when a hook is misspelt, its arguments do not fit, or a name it offers is taken.
        """
        self._admit(plugin, name, version)
        self.offers()
        if failures := self.infos[name].refused:
            self._forget(plugin, name)
            raise PluginError("plugin refused", where=name, found="; ".join(failures))

    def offers(self) -> Mapping[str, Mapping[str, Offer]]:
        """Return kind -> name -> offer. The first to claim a name keeps it; built-in names cannot be taken."""
        if self._offers is None:
            self._offers = self._collect()
        return self._offers

    def defenses(self) -> dict[str, Offer]:
        """Return name -> offer of the defenses that are meant where none is named: all but the :meth:`baselines`."""
        return {name: offer for name, offer in self.offers()["defense"].items() if not offer.entry.baseline}

    def baselines(self) -> dict[str, Offer]:
        """Return name -> offer of the defenses that others are compared with."""
        return {name: offer for name, offer in self.offers()["defense"].items() if offer.entry.baseline}

    def get(self, kind: str, name: str) -> Any:
        """Import and return what is offered under *name*.

        :raises SettingsError: for an unknown name, with the nearest known one.
        :raises PluginError: when the import fails.
        """
        known = self.offers()[kind]
        if name not in known:
            raise SettingsError(f"unknown {kind}", found=name, allowed=listed(known), hint=nearest(name, known))
        offer = known[name]
        try:
            return offer.entry.load()
        except Exception as error:
            raise PluginError(
                f"{kind} {name!r} cannot be imported",
                where=offer.origin,
                found=f"{type(error).__name__}: {error}",
                hint="run 'elixir-plugin env' to check the installation",
            ) from error

    def _load(self, point: EntryPoint) -> None:
        name, version = _plugin_name(point), point.dist.version if point.dist else ""
        try:
            self._admit(point.load(), name, version)
        except (Exception, SystemExit) as error:  # a stranger's import may fail in any way
            key = name if name not in self.infos else f"{name} (again)"
            self.infos[key] = PluginInfo(name, version, broken=" ".join(f"{type(error).__name__}: {error}".split()))

    def _admit(self, plugin: object, name: str, version: str) -> None:
        self._refuse_misspelt_hooks(plugin, name)
        if self.manager.has_plugin(name) or self.manager.is_registered(plugin):  # the first one stays
            raise PluginError("plugin is registered already", where=name, found=self.manager.get_name(plugin) or name)
        try:
            self.manager.register(plugin, name=name)
        except (pluggy.PluginValidationError, ValueError) as error:
            self._forget(plugin, name)
            raise PluginError("plugin refused", where=name, found=" ".join(str(error).split())) from error
        hooks = [caller.name for caller in self.manager.get_hookcallers(plugin) or []]
        self.infos[name] = PluginInfo(name, version, sorted(hooks))
        self._offers = None

    def _forget(self, plugin: object, name: str) -> None:
        if self.manager.is_registered(plugin):
            self.manager.unregister(plugin)
        self.infos.pop(name, None)
        self._offers = None

    def _refuse_misspelt_hooks(self, plugin: object, name: str) -> None:
        known = {hook for hook in vars(hookspecs) if hook.startswith("elixir_")}
        for attribute in dir(plugin):
            marked = self.manager.parse_hookimpl_opts(plugin, attribute) is not None
            if not (marked or attribute.startswith("elixir_")) or not callable(getattr(plugin, attribute, None)):
                continue
            if attribute in known and not marked:
                raise PluginError(f"hook {attribute!r} is not marked", where=name, hint="write @hookimpl above it")
            if attribute not in known:
                raise PluginError(
                    f"unknown hook {attribute!r}",
                    where=name,
                    hint=nearest(attribute, known) or f"hooks: {sorted(known)}",
                )

    def _collect(self) -> dict[str, dict[str, Offer]]:
        for info in self.infos.values():
            info.refused.clear()
        return {kind: self._collect_kind(hook) for kind, hook in KINDS.items()}

    def _collect_kind(self, hook: str) -> dict[str, Offer]:
        found: dict[str, Offer] = {}
        rank = {name: position for position, name in enumerate(self.infos)}  # tryfirst must not win a name
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda each: rank[each.plugin_name]):
            origin = implementation.plugin_name
            refused = self.infos[origin].refused
            try:
                entries = list(implementation.function() or [])
            except Exception as error:  # as in _load
                refused.append(f"{hook}: {type(error).__name__}: {error}")
                continue
            for entry in entries:
                if not (isinstance(entry, Entry) and isinstance(entry.name, str) and _NAME.fullmatch(entry.name)):
                    refused.append(f"{hook}: not an Entry with a lower-case name: {entry!r}")
                elif entry.name in found:
                    first = found[entry.name].origin
                    refused.append(f"{hook}: name {entry.name!r} refused: {first} offers it, and so does {origin}")
                else:
                    found[entry.name] = Offer(entry, origin)
        return found


def listed(offers: Mapping[str, Offer]) -> str:
    """Return the names of *offers* in order, baselines last, for a message.

    >>> made = {name: Offer(Entry(name, object, baseline=name == "a"), "mine") for name in ("c", "a", "b")}
    >>> listed(made), listed({})
    ('b, c; baselines: a', 'none')
    """
    own, baselines = (
        ", ".join(sorted(name for name, offer in offers.items() if offer.entry.baseline is said))
        for said in (False, True)
    )
    return "; ".join(filter(None, (own, baselines and f"baselines: {baselines}"))) or "none"


def _wanted(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    allowed = os.environ.get("ELIXIR_PLUGINS")
    if allowed is None:
        return list(points)
    names = {_canonical(name) for name in allowed.split(",")} | {_canonical(PROJECT)}
    return [point for point in points if point.dist is None or _canonical(point.dist.name) in names]


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def _order(point: EntryPoint) -> tuple[bool, str]:
    return (point.dist is None or _canonical(point.dist.name) != _canonical(PROJECT), _plugin_name(point))


def _plugin_name(point: EntryPoint) -> str:
    return f"{point.dist.name if point.dist else '?'}:{point.name}"


@lru_cache(maxsize=1)
def plugins() -> Plugins:
    """Return the process-wide set of plugins, loaded on first use."""
    return Plugins()
