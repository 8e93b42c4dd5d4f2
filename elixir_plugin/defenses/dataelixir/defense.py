"""DataElixir (Zhou, Lv, Lan, Meng, Chen, Ma, AAAI 2024, 38(19):21850–21858, arXiv 2312.11057).

A poisoned training set is turned back into a benign one: nothing is dropped, samples are repaired and relabelled.

0. A classifier, trained on the suspect set as it is, serves as probe.
1. Every image is noised and denoised several times in a row; the last states of each round are its copies.
2. The probe votes on original and copies; labels with few votes are dropped.
3. A sample is stable (its label stays), unanimous (its copies agree on another one) or ambiguous.
4. Classes whose anomalous samples scatter to other labels are targets of an attack; or, with reserved clean images
   (this project's own rule), those whose samples lose their label more often than these do.
5. Unanimous samples of target classes get an image far from the original, and the label of their copies.
6. A benign model is trained on all samples but the ambiguous ones of target classes,
7. and on those of them on which it agrees with the copies.
8. It gives the ambiguous samples their labels.
9. A fresh model is trained on the result.

Faults of the released code are mended here. Where it differs from its own earlier version, the released code is
followed. Of the earlier one, class rebalancing is offered (``rebalance``), in a simpler form; other measures of
distance than SSIM and cosine are not.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import Self

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.context import Context, derive_seed
from ...core.draws import Uncovered
from ...core.images import ImageSet, Index
from ...core.outcome import Outcome
from ...core.panels import Panel
from ...defense import Card, Defense
from ...diffusion.denoisers.base import Denoiser
from ...diffusion.fit import choose
from ...diffusion.fit.choose import admit_denoiser
from ...diffusion.plan import Plan
from ...errors import InputError, MissingNeedError
from ...io.files import to_json_types
from ...training.fit import refuse_unknown_architecture
from .denoiser import plan_round, prepare_denoiser, refuse_no_denoiser
from .estimate import estimate
from .models import Trainer
from .outcome import build_outcome, panels_of, warnings_for
from .purify import Candidates, Purifier, make_copies, make_reference, predict_slots, some_clean
from .repair import Repair, Repairer, repaired_set
from .settings import DataElixirSettings
from .target import ClassFinding, find_targets, refuse_no_such_class
from .votes import Reference, Votes, count_votes

GROWTH = 4  # times as many samples per class, where the decision is open


class DataElixir(Defense):
    """Repair a poisoned training set with a denoiser and the votes of a backdoored classifier."""

    name = "dataelixir"
    kind = "purify"
    needs = frozenset({"train", "denoiser"})
    trains_on_clean = True
    Settings = DataElixirSettings
    settings: DataElixirSettings
    _rows: Index | None = None  # the samples to purify; None: all, or those that two-phase mode chooses
    card = Card(
        title="DataElixir",
        paper="Zhou, Lv, Lan, Meng, Chen, Ma: DataElixir: Purifying Poisoned Dataset to Mitigate Backdoor Attacks via "
        "Diffusion Models, AAAI 2024, arXiv 2312.11057",
        year=2024,
        claims="removes triggers, finds the target label and restores labels of a dirty-label, all-to-one poisoned set",
        cost="70 network evaluations per image (preset paper: 750), 750 MB of disk per 10,000 images of 32 px (preset "
        "paper: 1.5 GB), and three to four classifier trainings",
        limits="all-to-all attacks are not seen unless detection.mode=all; clean-label triggers stay unless "
        "purify_all_in_target; full-contrast patches may survive purification; a denoiser that has seen the clean "
        "originals is hidden clean data",
    )

    def check(self, case: Case) -> None:
        if case.num_classes < 2:
            raise InputError("relabelling needs another label", where="number of classes", found=1, allowed="2 or more")
        assert case.train is not None
        refuse_no_such_class(self.settings.detection, case.num_classes)
        refuse_unknown_architecture(self.settings.architecture, case.train.image_shape[2])
        if self.settings.detection.mode == "excess" and (case.clean is None or not len(case.clean)):
            raise MissingNeedError(
                "this case holds no reserved clean set to compare with",
                where="settings of dataelixir: detection.mode=excess",
                hint="give a reserved clean set, or set detection.mode=mad",
            )
        if self.settings.probe == "case" and case.model is None:
            raise MissingNeedError(
                "this case holds no suspect model to take as probe",
                where="settings of dataelixir: probe=case",
                hint="use a record that holds one, or probe=train",
            )
        self.refuse_no_denoiser(case)

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        meaning = []
        if self.settings.detection.rule(case.clean) == "excess":
            meaning.append(
                f"Classes with fewer than {self.settings.detection.min_anomalies} clean samples to compare with are "
                "not judged: they are not found as targets of an attack"
            )
        if self.settings.denoiser is None:
            meaning.append(choose.UNSEEN)
        return ". ".join(meaning) or None

    def aimed(self, targets: Sequence[int]) -> Self:
        given = self.settings.detection.model_copy(update={"mode": "given", "targets": tuple(targets)})
        ready = copy.copy(self)
        ready.settings = self.settings.model_copy(update={"detection": given})
        return ready

    def narrowed(self, rows: Index) -> Self:
        """Return this defense for the samples at *rows*, where the target classes need not be found on all others."""
        if self.settings.detection.mode not in ("given", "all"):
            return self
        ready = copy.copy(self)
        ready._rows = rows
        return ready

    def refuse_no_denoiser(self, case: Case) -> None:
        """Refuse a case for which :meth:`prepare_denoiser` would find nothing; to be overridden together with it."""
        refuse_no_denoiser(case, self.settings)

    def prepare_denoiser(self, case: Case, context: Context) -> Denoiser:
        """Return the denoiser named in the settings, or one trained on the reserved clean set."""
        return prepare_denoiser(case, self.settings, context)

    def estimate(self, case: Case, context: Context) -> dict[str, Any]:
        """Return what a run would cost, measured on a few batches; nothing is kept. See :mod:`.estimate`.

        :raises ElixirError: for what :meth:`run` would refuse before any work.
        """
        self.refuse(case)
        visible = case.visible()
        return estimate(visible, self.settled(visible, context).settings, context)

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        with context.scratch_dir("dataelixir") as folder:
            with context.stage("denoiser"):
                denoiser, facts = self._denoiser(case, context)
            planned = plan_round(denoiser, self.settings, case.train)
            for note in planned.notes:
                context.note(note)
            trainer = Trainer(self.settings, context, folder if context.work_dir is not None else None)
            probe = trainer.make_probe(case)
            seed = context.derive_seed("dataelixir", "noise")
            purifier = Purifier(denoiser, planned, self.settings, case.train, seed, probe)
            reference = self._reference(purifier, case.clean, folder, context)
            candidates, rows, votes, finding = self._search(purifier, reference, folder, context)
            for note in warnings_for(finding):
                context.note(note)
            repair = Repairer(candidates, rows, votes, trainer).repair(finding.flagged)
            repaired = repaired_set(candidates, repair)
            model = self._final(case.train.labels, repaired, repair, trainer)
        outcome = build_outcome(case.train, rows, votes, repair, finding=finding, settings=self.settings)
        outcome.train, outcome.model, outcome.curves = repaired, model, trainer.curves
        outcome.noise_level = planned.sigma  # of one round: the next one starts from denoised images
        if self.settings.probe == "train":
            outcome.undefended = probe
        outcome.tables = to_json_types({"denoiser": facts, **self._cost(planned, rows), **outcome.tables})
        return outcome

    def panels(self, outcome: Outcome) -> list[Panel]:
        return panels_of(outcome)

    def _denoiser(self, case: Case, context: Context) -> tuple[Denoiser, dict[str, Any]]:
        """Return the denoiser on the device and what it has seen, refusing one that knows the suspect set."""
        assert case.train is not None
        denoiser = self.prepare_denoiser(case, context).to(context.device)
        settings = self.settings
        facts, notes = admit_denoiser(denoiser, settings.denoiser, case.train, forced=settings.force_denoiser)
        for note in notes:
            context.note(note)
        return denoiser, facts

    def _reference(
        self, purifier: Purifier, clean: ImageSet | None, folder: Path, context: Context
    ) -> Reference | None:
        """Purify reserved clean images as the reference set, where the rule that finds target classes needs them."""
        if self.settings.detection.rule(clean) != "excess":
            return None
        assert clean is not None  # see `check`
        rows = some_clean(clean, self.settings.detection.reference_per_class, context)
        for_clean = dataclasses.replace(
            purifier, images=clean.subset(rows), seed=derive_seed(purifier.seed, "reference")
        )
        return make_reference(for_clean, folder / "reference", context)

    def _search(
        self, purifier: Purifier, reference: Reference | None, folder: Path, context: Context
    ) -> tuple[Candidates, Index, Votes, ClassFinding]:
        """Steps 1 to 4: return the candidates, the positions of all samples that were purified, and their votes.

        With ``detect_per_class``, only some samples per class are purified at first, and then the target classes; but
        the whole set, or more samples per class, when the decision is open.
        """
        settings, train, probe = self.settings, purifier.images, purifier.probe
        assert probe is not None
        candidates = Candidates(train, settings.slots, truncate=settings.quantise == "truncate")

        def purify(rows: Index, name: str) -> None:
            if not len(rows):
                return
            with context.stage("purify"):
                candidates.add(rows, make_copies(purifier, rows, folder / name, context, f"purifying {name}"))

        def vote() -> tuple[Index, Votes]:
            rows = np.flatnonzero(candidates.known)
            with context.stage("vote"):
                labels = predict_slots(probe, candidates, rows, context, "votes")
            anchor = train.labels[rows] if settings.anchor == "given" else None
            return rows, count_votes(labels, settings.threshold, anchor)

        def find() -> tuple[Index, Votes, ClassFinding]:
            rows, votes = vote()
            found = find_targets(votes, train.labels[rows], train.num_classes, settings.detection, reference)
            return rows, votes, found

        if self._rows is not None:
            purify(self._rows, "chosen")
            return candidates, *find()
        everyone, count = np.arange(len(train)), settings.detect_per_class
        first = everyone if count is None else some_per_class(train, count, context)
        purify(first, "first")
        rows, votes, finding = find()
        while count is not None and settings.fallback == "grow" and len(rows) < len(train) and _is_open(finding):
            count *= GROWTH
            purify(np.setdiff1d(some_per_class(train, count, context), rows), f"up-to-{count}")
            rows, votes, finding = find()
        if len(rows) == len(train):
            return candidates, rows, votes, finding
        whole = settings.fallback == "whole" and (finding.doubtful or not finding.flagged.any())
        wanted = everyone if whole else np.flatnonzero(finding.flagged[train.labels])
        purify(np.setdiff1d(wanted, rows), "rest")
        if whole:
            context.note(
                "two-phase mode fell back to the full run: on the first samples, "
                + ("the decision was a close one" if finding.doubtful else "no class stood out")
            )
            return candidates, *find()
        return candidates, *vote(), finding

    def _final(self, given: Index, repaired: ImageSet, repair: Repair, trainer: Trainer) -> Classifier | None:
        """Step 9: return the model that goes with the repaired set.

        :param given: the labels before.
        """
        if not repair.changed(given).any():
            kind = "trained here on the set as it is" if self.settings.probe == "train" else "the suspect model"
            trainer.context.note(f"nothing was changed: the returned model is the probe, {kind}")
            return trainer.probe
        if self.settings.train_final:
            return trainer.learn(repaired, trainer.fresh("final"), "final")
        return repair.model

    def _cost(self, planned: Plan, rows: Index) -> dict[str, Any]:
        rounds = self.settings.purification.rounds
        return {
            "noise_level": planned.sigma,
            "t_star": planned.t_star,
            "indices": list(planned.indices),
            "nfe_per_purified_image": planned.nfe * rounds,
            "purified": len(rows),
        }


def _is_open(finding: ClassFinding) -> bool:
    """Whether more samples may decide otherwise.

    Without reserved clean images to compare with, a class of few samples is not judged, so that "none" is no answer.
    """
    return finding.doubtful or (finding.mode == "mad" and not finding.flagged.any())


def some_per_class(images: ImageSet, count: int, context: Context) -> Index:
    """Return ascending positions of *count* random samples of each class; all of a smaller class.

    Those of a smaller *count* are among them.
    """
    order = torch.randperm(len(images), generator=context.generator("dataelixir", "detect")).numpy()
    labels = images.labels[order]
    chosen = [order[labels == label][:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))
