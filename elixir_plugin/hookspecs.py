"""The whole extension surface: what a plugin may provide, and which moments of a run it may watch.

A plugin is a module (or object) with functions marked by :data:`hookimpl`, announced as an entry point in group
``elixir_plugin``. Built-in defenses, adapters, architectures and poisons come in through the same hooks.

.. code-block:: python

    # my_package/plugin.py                      setup.cfg: [options.entry_points]
    from elixir_plugin import hookimpl          #   elixir_plugin =
    from elixir_plugin.hookspecs import Entry   #       my_package = my_package.plugin

    @hookimpl
    def elixir_defenses():
        return [Entry("median_blur", "my_package.blur:MedianBlur", kind="purify", summary="3 × 3 median filter")]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pluggy

PROJECT = "elixir_plugin"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Entry:
    """One named thing a plugin offers, imported when it is first used.

    :param name: how a user calls it; lower case, letters, digits and underscores.
    :param target: ``"package.module:attribute"``, or the object itself.
    :param kind: for defenses one of ``detect``, ``purify``, ``train``, ``repair``; free otherwise.
    :param summary: one line for ``elixir-plugin list``.

    >>> Entry("sqrt", "math:sqrt").load()(9.0)
    3.0
    """

    name: str
    target: Any
    kind: str = ""
    summary: str = ""

    def load(self) -> Any:
        """Return the object behind :attr:`target`."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


@hookspec
def elixir_defenses() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer defenses: entries whose target is a subclass of :class:`elixir_plugin.Defense`."""


@hookspec
def elixir_adapters() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer adapters: entries whose target is a subclass of :class:`elixir_plugin.adapter.Adapter`."""


@hookspec
def elixir_architectures() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer classifier architectures.

    The target is a function ``(num_classes: int, channels: int) -> nn.Module`` whose module maps float32
    ``[B, channels, H, W]`` to logits ``[B, num_classes]``.
    """


@hookspec
def elixir_poisons() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer training-free poisons for demos, tests and comparisons: subclasses of ``testbed.poisons.Poison``."""


@hookspec
def elixir_denoisers() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer denoisers for purification.

    The target is a function ``(image_size: int, channels: int) -> Denoiser``.
    """


@hookspec
def elixir_generators() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer generators of image variations; chosen by name with ``backend=NAME``.

    The target is a function ``(settings: GeneratorSettings, image_shape: (H, W, C), device) -> ImageGenerator``, both
    from :mod:`elixir_plugin.diffusion.generators`. What it returns has two methods:

    .. code-block:: python

        class Blurred:
            def vary(self, images, seeds):  # uint8 [B, 3, H, W], int64 [B] -> uint8 [B, 3, S, T], in the same order
                return torchvision.transforms.functional.gaussian_blur(images, 5)

            def fingerprint(self):  # changes with anything that changes the images
                return "blur-5"

        @hookimpl
        def elixir_generators():
            return [Entry("blurred", lambda settings, image_shape, device: Blurred(), summary="Gaussian blur")]

    A generator never sees a label: that of a poison sample names the attacker's class. Each variation must depend on
    its image and its seed alone.
    """


@hookspec
def elixir_run_started(spec: Mapping[str, Any], folder: str) -> None:
    """Called once the case is read and before the defense starts.

    :param spec: the resolved content of ``run.yaml``.
    :param folder: the run folder.
    """


@hookspec
def elixir_stage_finished(stage: str, seconds: float) -> None:
    """Called after each stage a defense announces with ``context.stage(...)``."""


@hookspec
def elixir_run_finished(report: Mapping[str, Any], folder: str) -> None:
    """Called after ``report.json`` is complete.

    :param report: its content.
    :param folder: the run folder.
    """
