"""How Confusion Training decides which classes and samples are poisoned, from the outputs of the confused models.

Nothing is trained here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.outcome import Outcome, Verdict
from .data import PreparedData
from .held_out import Exceedance, conformal_p_values, discoveries, exceedances, joint_vote
from .scoring import ClassEvidence, Floats, Mask, at_label, centred, class_evidence, flag_classes
from .settings import ConfusionSettings

_VOTES = {"all": "under the least convinced of", "median": "for the median of"}


@dataclass(frozen=True)
class RoundOutputs:
    """Outputs of the confused model of one round: logits of suspects, confused clean samples and held-out ones."""

    suspect: NDArray[np.float32]
    clean: NDArray[np.float32]
    held_out: NDArray[np.float32]


@dataclass(frozen=True)
class Finding:
    """What all rounds found.

    :param rounds: the outputs of each round.
    :param features: ``[N, d]`` of the suspect set under the last confused model.
    :param curves: one value per round.
    """

    rounds: list[RoundOutputs]
    features: NDArray[np.float32]
    curves: dict[str, list[float]]


def decide(finding: Finding, data: PreparedData, settings: ConfusionSettings, context: Context) -> Outcome:
    """Flag classes and their isolated samples, and state the evidence."""
    labels, last = data.labels, finding.rounds[-1]
    predicted = last.suspect.argmax(1)
    evidence = class_evidence(
        finding.features, predicted, labels, data.inspected, dims=settings.pca_dims, eps=settings.pca_eps
    )
    last_rounds = finding.rounds[-settings.last_models :]
    centred_log_probs = [centred(each.suspect, each.clean) for each in last_rounds]
    held_out_scores = [at_label(centred(each.held_out, each.clean), data.held_out_labels) for each in last_rounds]
    tests = _tests(centred_log_probs, held_out_scores, data, settings)
    classes = flagged_classes(evidence, tests, settings) & data.inspected
    mean_log_probs = np.mean(centred_log_probs, axis=0)
    scores = at_label(mean_log_probs, labels)
    inspected = data.inspected[labels]
    # where clean samples were never confused, being fitted says nothing: below all others, so that no list begins there
    scores[~inspected] = scores[inspected].min(initial=0.0)
    by_ratio = settings.rule == "ratio"
    isolated = ((predicted if by_ratio else mean_log_probs.argmax(1)) == labels) & inspected
    if settings.decision == "ungated":
        flagged, withheld = isolated, 0
    else:
        credible = _credible(scores, np.mean(held_out_scores, axis=0), data, settings)
        flagged = isolated & classes[labels] & credible
        if not by_ratio and settings.fdr is not None:
            classes &= np.bincount(labels[flagged], minlength=data.num_classes) > 0
        withheld = int((isolated & ~classes[labels]).sum())
    for note in _notes(evidence, finding, withheld):
        context.note(note)
    table = [
        {"class": k, **asdict(evidence[k]), **asdict(tests[k]), "flagged": bool(classes[k])}
        for k in range(data.num_classes)
    ]
    return Outcome(
        scores=scores,
        flagged=flagged,
        kept=np.flatnonzero(~flagged),
        verdict=_verdict(evidence, tests, bool(classes.any()), settings),
        curves=finding.curves,
        tables={"classes": table, "ungated": np.flatnonzero(isolated).tolist()},
    )


def _tests(
    centred_log_probs: list[Floats], held_out_scores: list[Floats], data: PreparedData, settings: ConfusionSettings
) -> list[Exceedance]:
    """Return the test of each class that the last models agree on; for one that is not inspected, p = 1.

    :param centred_log_probs: ``[N, C]`` of the suspect set, one per model.
    :param held_out_scores: ``[h]`` of the held-out samples at their label, one per model.
    """
    rows = data.tested_rows
    labels = data.labels[rows]
    votes = [
        exceedances(at_label(suspects[rows], labels), labels, held_out, data.held_out_labels, data.num_classes,
                    tolerated_share=settings.tolerated_share, level=settings.class_level)
        for suspects, held_out in zip(centred_log_probs, held_out_scores, strict=True)
    ]  # fmt: skip
    tests = [joint_vote(each, settings.vote) for each in zip(*votes, strict=True)]
    return [test if inspected else Exceedance(0, 1.0) for test, inspected in zip(tests, data.inspected, strict=True)]


def _credible(scores: Floats, held_out: Floats, data: PreparedData, settings: ConfusionSettings) -> Mask:
    """Return which suspects may be reported, ``[N]``, if their class is flagged.

    They are fitted better than all but ``tolerated_share`` of the held-out clean samples, and, with ``fdr``, so much
    better that at most this share of those reported of a class is expected to be clean.

    :param scores, held_out: mean centred log-probability at the label, of suspects and of held-out samples.
    """
    if settings.rule == "ratio" or not len(held_out):
        return np.ones(len(scores), bool)
    labels = data.labels
    credible: Mask = scores > np.sort(held_out)[::-1][int(settings.tolerated_share * len(held_out))]
    if settings.fdr is None:
        return credible
    p = conformal_p_values(scores, labels, held_out, data.held_out_labels, data.num_classes)
    for c in range(data.num_classes):
        members = np.flatnonzero(labels == c)
        credible[members] &= discoveries(p[members], settings.fdr)
    return credible


def flagged_classes(evidence: list[ClassEvidence], tests: list[Exceedance], settings: ConfusionSettings) -> Mask:
    """Return which classes the rule flags."""
    ratios = np.array([each.log_ratio for each in evidence])
    by_ratio = flag_classes(ratios, settings.threshold, settings.top_threshold)
    p = np.array([each.p for each in tests])
    by_test = p < settings.p_value
    return {
        "ratio": by_ratio,
        "held_out": by_test,
        "both": by_ratio & by_test,
        "guarded": (by_ratio & by_test) | (p < settings.certain_p),
    }[settings.rule]


def _verdict(
    evidence: list[ClassEvidence], tests: list[Exceedance], poisoned: bool, settings: ConfusionSettings
) -> Verdict:
    if settings.rule == "ratio":
        return Verdict(
            poisoned,
            max(each.log_ratio for each in evidence),
            f"largest log-likelihood ratio of a class; above {math.log(settings.top_threshold):.2f} it flags the "
            "class. Clean sets are flagged now and then: the rule needs no poison to fire",
        )
    smallest = min(each.p for each in tests)
    least = -math.log10(settings.p_value)
    needs = {
        "held_out": f"Above {least:g} the class is flagged",
        "both": f"Above {least:g} the class is flagged if its likelihood ratio agrees",
        "guarded": f"Above {least:g} the class is flagged if its likelihood ratio agrees, above "
        f"{-math.log10(settings.certain_p):g} in any case",
    }[settings.rule]
    return Verdict(
        poisoned,
        -math.log10(max(smallest, 1e-300)),
        "−log10 of the smallest p-value of a class: that its suspects are fitted better than nearly all held-out "
        f"clean samples by chance, {_VOTES[settings.vote]} the last confused models. {needs}. Of 15 clean "
        "subsets of CIFAR-10, 2 were flagged when this was measured, without mixed_in",
    )


def _notes(evidence: list[ClassEvidence], finding: Finding, withheld: int) -> list[str]:
    """Return what a reader must know about this result."""
    notes = []
    undecidable = [str(k) for k, each in enumerate(evidence) if each.state == "undecidable"]
    if undecidable:
        notes.append(
            f"undecidable for the likelihood ratio: classes {', '.join(undecidable)} are fitted as a whole; they "
            "are all poison, or confusion never reached them"
        )
    if any(each.state == "not finite" for each in evidence):
        notes.append("features of some classes are not finite: their likelihood ratio counts as 1")
    left = finding.curves["confused_accuracy"][-1]
    if left > 2 / len(evidence):
        notes.append(
            f"confusion did not take: the last model still predicts {left:.0%} of the clean samples it should "
            "misread; use more confusion_steps or a higher confusion_lr"
        )
    if withheld:
        notes.append(f"{withheld} more samples are isolated, in classes that are not flagged (tables: ungated)")
    return notes
