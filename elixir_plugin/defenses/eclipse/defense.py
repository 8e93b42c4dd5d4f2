"""ECLIPSE: expunging clean-label indiscriminate poisons via sparse diffusion purification.

Wang et al., ESORICS 2024, arXiv 2406.15093. Every image of the suspect set may carry a small perturbation that makes a
model trained on it fail on clean data. There are three modules:

- A: a denoiser, trained on a few reserved clean images (no labels needed), purifies the suspect set: forward jump to
  noise level t*, then the reverse chain (Algorithm 1, Eqs. 9–12).
- B: some images lose their colour while a model trains on them.
- C: all of them get Gaussian noise.

Where paper and released code differ, this follows the code: B and C draw new values at every access (``mode``
online), x̂0 is clipped, T = 4000. Unlike both, it refuses clean images from the scored test set or the suspect set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...core.augmentation import Augmentation, augmented_once
from ...core.case import Case
from ...core.context import Context
from ...core.draws import Uncovered
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...core.panels import Panel, line_panels
from ...core.pixels import rms_changes
from ...defense import Card, Defense
from ...diffusion.denoisers.base import Denoiser
from ...diffusion.fit import choose
from ...diffusion.plan import Purification, plan
from ...diffusion.purify import purify
from ...io.files import to_json_types
from .settings import EclipseSettings


class Eclipse(Defense):
    """Purify a suspect set with a denoiser trained on a few clean images."""

    name = "eclipse"
    kind = "purify"
    needs = frozenset({"train", "clean"})
    trains_on_clean = True
    by_image = True
    Settings = EclipseSettings
    settings: EclipseSettings
    card = Card(
        title="ECLIPSE",
        paper="Wang et al.: ECLIPSE: Expunging Clean-Label Indiscriminate Poisons via Sparse Diffusion Purification, "
        "ESORICS 2024, arXiv 2406.15093",
        year=2024,
        claims="makes a set usable again whose every image carries a bounded perturbation with correct labels",
        cost="training a denoiser on 2–6 % clean images, then 25–100 network evaluations per suspect image",
        limits="not for backdoors, wrong labels or unbounded poisons (CUDA, OPS); costs some clean accuracy; detects "
        "nothing; on small data the denoiser adds little over grayscale and noise alone: run with controls",
    )

    def check(self, case: Case) -> None:
        settings = self.settings
        if not settings.purify:
            return
        choose.refuse_no_denoiser(case, settings.denoiser, defense="eclipse", forced=settings.force_denoiser)
        if settings.denoiser is None:
            choose.refuse_untrained(settings.purification.level, settings.fit)

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        return choose.UNSEEN if self.settings.purify and self.settings.denoiser is None else None

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None and case.clean is not None
        settings = self.settings
        images, tables, level = case.train, dict[str, Any](), 0.0
        curves: dict[str, list[float]] = {}
        if settings.purify:
            with context.stage("denoiser"):
                denoiser = self.prepare_denoiser(case.clean, context)
                facts = self._provenance(denoiser, case.train, context)
            with context.stage("purify"):
                images, tables, level = self.purified(denoiser, case.train, context)
            tables["denoiser"] = facts
            curves = _curves(denoiser, tables["chain"])
        added = Augmentation(grayscale=settings.gray_p, noise=settings.noise_std)
        if settings.gray_p and images.image_shape[2] == 1:
            context.note("images have one channel: module B (grayscale) changes nothing")
        if settings.mode == "static":
            return Outcome(
                train=augmented_once(images, added, context.generator("eclipse", "static")),
                static_augmentation=added,
                noise_level=level,
                curves=curves,
                tables=tables,
            )
        return Outcome(train=images, augmentation=added, noise_level=level, curves=curves, tables=tables)

    def panels(self, outcome: Outcome) -> list[Panel]:
        changed = outcome.tables.get("rms_change")
        loss, level = (
            ("Training of the denoiser", "Loss of the denoiser, mean of each block of iterations.", ("denoiser_loss",)),
            (
                "Noise level on the way back",
                "Noise left in the images before each network evaluation, relative to pixel scale; it starts at t*."
                + ("" if changed is None else f" In the end images had moved by {changed:.4f} (root mean square)."),
                ("noise_level",),
            ),
        )
        return [
            *line_panels(outcome.curves, [level], x_label="network evaluation"),
            *line_panels(outcome.curves, [loss], x_label="block"),
        ]

    def prepare_denoiser(self, clean: ImageSet, context: Context) -> Denoiser:
        """Return the denoiser named in the settings, or one trained on (some of) the reserved clean set."""
        settings = self.settings
        if settings.denoiser is None and settings.sparse is not None and settings.sparse < len(clean):
            order = torch.randperm(len(clean), generator=context.generator("eclipse", "sparse")).numpy()
            clean = clean.subset(np.sort(order[: settings.sparse]))
        return choose.named_or_trained(settings.denoiser, clean, settings.fit, clean.image_shape, context)

    def _provenance(self, denoiser: Denoiser, train: ImageSet, context: Context) -> dict[str, Any]:
        """Return what the denoiser has seen, refusing one that knows the suspect set."""
        settings = self.settings
        facts, notes = choose.admit_denoiser(denoiser, settings.denoiser, train, forced=settings.force_denoiser)
        for note in notes:
            context.note(note)
        return dict(to_json_types(facts))

    def purified(self, denoiser: Denoiser, train: ImageSet, context: Context) -> tuple[ImageSet, dict[str, Any], float]:
        """Module A: return the purified set, facts for the report, and the noise added on the way."""
        settings = self._with_steps_of_chain(denoiser, context)
        planned = plan(denoiser, settings, train.image_shape)
        store = None if context.work_dir is None else context.work_dir / "purified"
        images = purify(denoiser, settings, train, context, seed_name="eclipse", store=store)
        tables = {
            "noise_level": planned.sigma,
            "t_star": planned.t_star,
            "chain_length": denoiser.schedule.length,
            "nfe_per_image": planned.nfe,
            "chain": [*(index + 1 for index in planned.indices), 0],
            "rms_change": float(np.sqrt(np.square(rms_changes(train, images)).mean())),
        }
        return images, tables, planned.sigma

    def _with_steps_of_chain(self, denoiser: Denoiser, context: Context) -> Purification:
        """Return how to purify, with no more steps than the denoiser's chain has up to the noise level.

        A level stated for another chain may correspond to far fewer steps there.
        """
        settings = self.settings.purification
        most = settings.level.resolve(denoiser.schedule)
        if not most or settings.steps is None or settings.steps <= most:
            return settings
        context.note(
            f"the denoiser's chain has only {most} steps up to the noise level: all are used, not {settings.steps}"
        )
        return settings.model_copy(update={"steps": most})


def _curves(denoiser: Denoiser, chain: list[int]) -> dict[str, list[float]]:
    """Return the noise level at each step of *chain*, and how the denoiser was trained where that is known."""
    curves = {"noise_level": [denoiser.schedule.noise_std(step) for step in chain]}
    learned = getattr(denoiser, "card", {}).get("curves", {})
    return curves | ({"denoiser_loss": list(learned["loss"])} if "loss" in learned else {})
