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

The example of each hook registers an object instead, whose methods take a ``self``; all else is the same. A target that
is heavy to import is named as ``"package.module:attribute"``: ``elixir-plugin list`` then does not import it.
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
    :param baseline: for defenses: what others are compared with. It runs where it is named, and nowhere else.

    >>> Entry("sqrt", "math:sqrt").load()(9.0)
    3.0
    """

    name: str
    target: Any
    kind: str = ""
    summary: str = ""
    baseline: bool = False

    def load(self) -> Any:
        """Return the object behind :attr:`target`."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


@hookspec
def elixir_defenses() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer defenses: entries whose target is a subclass of :class:`elixir_plugin.Defense`.

    >>> import numpy as np
    >>> from elixir_plugin import Defense, Outcome
    >>> from elixir_plugin import Card
    >>> from elixir_plugin.plugins import Plugins
    >>> from elixir_plugin.testing import tiny_case
    >>> class Darkness(Defense):
    ...     name, kind, needs = "darkness", "detect", frozenset({"train"})
    ...     card = Card("Darkness", "nobody", 2024, "dark images are bad", "one look per image", "mostly wrong")
    ...     def defend(self, case, context):
    ...         return Outcome(scores=-case.train.read(slice(None)).mean((1, 2, 3)))
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_defenses(self):
    ...         return [Entry("darkness", Darkness, kind="detect", summary="the darker, the more suspicious")]
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> len(loaded.get("defense", "darkness")().run(tiny_case()).scores) == len(tiny_case().train)
    True
    """


@hookspec
def elixir_adapters() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer adapters: entries whose target is a subclass of :class:`elixir_plugin.adapter.Adapter`.

    >>> import numpy as np
    >>> from pathlib import Path
    >>> from elixir_plugin import Case, ImageSet
    >>> from elixir_plugin import Adapter
    >>> from elixir_plugin.plugins import Plugins
    >>> class OneGray(Adapter):
    ...     name, reads_disk = "one_gray", False
    ...     def read(self, path, seed=0):
    ...         return Case(train=ImageSet(np.full((1, 8, 8, 3), 128, np.uint8), [0], num_classes=10))
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_adapters(self):
    ...         return [Entry("one_gray", OneGray, summary="one gray image; nothing is read")]
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> loaded.get("adapter", "one_gray")().read(Path("anything")).train
    ImageSet(1 × (8, 8, 3), uint8, 10 classes)
    """


@hookspec
def elixir_architectures() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer classifier architectures.

    The target is a function ``(num_classes: int, channels: int) -> nn.Module`` whose module maps float32
    ``[B, channels, H, W]`` to logits ``[B, num_classes]``.

    >>> import torch
    >>> from torch import nn
    >>> from elixir_plugin.plugins import Plugins
    >>> def make_linear(num_classes, channels):
    ...     return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, num_classes))
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_architectures(self):
    ...         return [Entry("linear", make_linear, summary="one layer on 4 × 4 averages")]
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> loaded.get("architecture", "linear")(10, 3)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """


@hookspec
def elixir_poisons() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer training-free poisons for demos, tests and comparisons: subclasses of ``testbed.base.Poison``.

    >>> from elixir_plugin.plugins import Plugins
    >>> from elixir_plugin.testbed.base import Backdoor
    >>> from elixir_plugin.testing import tiny_case
    >>> class Stripe(Backdoor):
    ...     name = "stripe"
    ...     def trigger(self, images, labels, ids):
    ...         images = images.copy()  # float32 [n, H, W, C] in [0, 1]
    ...         images[:, 0] = 1.0
    ...         return images
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_poisons(self):
    ...         return [Entry("stripe", Stripe, summary="one bright row of pixels")]
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> train, truth = loaded.get("poison", "stripe")(rate=0.25).poison(tiny_case().train, seed=0)
    >>> bool((train.read(slice(None))[truth.poison, 0] == 255).all())
    True
    """


@hookspec
def elixir_denoisers() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer denoisers for purification; chosen by name with ``denoiser=NAME``.

    The target is a function ``(image_size: int, channels: int) -> Denoiser``, see
    :class:`elixir_plugin.diffusion.denoisers.Denoiser`. Weights in a diffusers folder or on the Hub are loaded with
    :func:`elixir_plugin.diffusion.denoisers.load_denoiser`, checkpoints of improved-diffusion and guided-diffusion with
    :func:`elixir_plugin.diffusion.denoisers.load_checkpoint`. One that is made for other images raises a
    ``SettingsError`` that says so.

    >>> from elixir_plugin.diffusion.denoisers.gaussian import GaussianDenoiser
    >>> from elixir_plugin.diffusion.schedule import Schedule
    >>> from elixir_plugin.plugins import Plugins
    >>> def make_dim(image_size, channels):
    ...     return GaussianDenoiser(Schedule("linear", 1000), mean=-0.5, std=0.2, channels=channels)
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_denoisers(self):
    ...         return [Entry("dim", make_dim, summary="a formula for dark pixels, any image size")]
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> loaded.get("denoiser", "dim")(32, 3).trained_steps
    1000
    """


@hookspec
def elixir_generators() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Offer generators of image variations; chosen by name with ``backend=NAME``.

    The target is a function ``(settings: GeneratorSettings, image_shape: (H, W, C), device) -> ImageGenerator``, both
    from :mod:`elixir_plugin.diffusion.generators`. What it returns has two methods. A generator never sees a label:
    that of a poison sample names the attacker's class. Each variation must depend on its image and its seed alone.

    >>> import torch
    >>> from torch.nn.functional import avg_pool2d
    >>> from elixir_plugin.plugins import Plugins
    >>> class Blurred:
    ...     def vary(self, images, seeds):  # uint8 [B, 3, H, W], int64 [B] -> uint8 [B, 3, S, T], in the same order
    ...         return avg_pool2d(images.float(), 3, stride=1, padding=1).round().to(torch.uint8)
    ...     def fingerprint(self):  # changes with anything that changes the images
    ...         return "blur-3"
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_generators(self):
    ...         return [Entry("blurred", lambda settings, image_shape, device: Blurred(), summary="3 × 3 mean")]
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> blurred = loaded.get("generator", "blurred")(None, (8, 8, 3), torch.device("cpu"))
    >>> blurred.vary(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2)).shape
    torch.Size([2, 3, 8, 8])
    """


@hookspec
def elixir_run_started(spec: Mapping[str, Any], folder: str) -> None:
    """Called once the case is read and before the defense starts.

    :param spec: the resolved content of ``run.yaml``.
    :param folder: the run folder.

    A hook may leave out arguments that it has no use for.

    >>> from elixir_plugin.plugins import Plugins
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_run_started(self, spec):
    ...         print("started:", spec["defense"], spec["seed"])
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> _ = loaded.manager.hook.elixir_run_started(spec={"defense": "d3", "seed": 0}, folder="runs/d3")
    started: d3 0
    """


@hookspec
def elixir_stage_finished(stage: str, seconds: float) -> None:
    """Called after each stage a defense announces with ``context.stage(...)``.

    :param stage: its name.
    :param seconds: how long it took, here and now; what another run has spent on something shared is left out.

    >>> from elixir_plugin.plugins import Plugins
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_stage_finished(self, stage, seconds):
    ...         print(f"{stage}: {seconds:.0f} s")
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> _ = loaded.manager.hook.elixir_stage_finished(stage="detoxify", seconds=26.3)
    detoxify: 26 s
    """


@hookspec
def elixir_run_finished(report: Mapping[str, Any], folder: str) -> None:
    """Called after ``report.json`` is complete.

    :param report: its content.
    :param folder: the run folder.

    >>> from elixir_plugin.plugins import Plugins
    >>> class Mine:
    ...     @hookimpl
    ...     def elixir_run_finished(self, report, folder):
    ...         print(f"{folder}: ASR {report['metrics']['after']['asr']:.1%}")
    >>> loaded = Plugins([])
    >>> loaded.register(Mine(), "mine")
    >>> facts = {"metrics": {"after": {"asr": 0.032}}}
    >>> _ = loaded.manager.hook.elixir_run_finished(report=facts, folder="runs/d3")
    runs/d3: ASR 3.2%
    """
