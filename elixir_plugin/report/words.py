"""A run in words: was the set poisoned, what was done, what did it cost, how sure is it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from ..core.metrics import ModelMetrics
from ..core.outcome import FOR_A_LOOK
from .facts import Facts
from .page import duration, number, percent


@dataclass(frozen=True)
class SummaryItem:
    """One question, answered.

    :param short: a few words.
    :param long: the rest of it.
    """

    question: str
    short: str
    long: str = ""


@dataclass(frozen=True)
class Summary:
    """What stands at the top of the page.

    :param mood: ``"bad"`` for a poisoned set, ``"good"`` for a clean one, else ``""``.
    :param basis: what the verdict rests on, in the words of the defense.
    """

    headline: str
    lede: str
    mood: str
    items: list[SummaryItem]
    basis: str = ""


def summary_of(facts: Facts) -> Summary:
    """Return the run in words, from what was measured alone."""
    headline, mood = _headline(facts)
    source = facts.run.source
    name = PurePath(source.path).name or source.path
    lede = f"{facts.run.defense} on {name} ({source.adapter}), seed {facts.run.seed}."
    items = [_poisoned(facts), _done(facts), _cost(facts), _certainty(facts)]
    return Summary(headline, lede, mood, items, _basis(facts))


def _headline(facts: Facts) -> tuple[str, str]:
    verdict, flagged, count = facts.outcome.verdict, facts.outcome.flagged, facts.suspects
    said = None if verdict is None else verdict.poisoned
    if said:
        found = f": {_of(flagged, count)} samples are suspicious" if flagged else ""
        return f"Looks poisoned{found}", "bad"
    if said is False:
        return f"No evidence of poison{f' in {number(count)} samples' if count else ''}", "good"
    before, after = facts.metrics.before, facts.metrics.after
    if _both(before, after, "asr"):
        assert before is not None and after is not None
        more = f", accuracy from {percent(before.acc)} to {percent(after.acc)}" if _both(before, after, "acc") else ""
        return f"Attack success went from {percent(before.asr)} to {percent(after.asr)}{more}", ""
    if _both(before, after, "acc"):
        assert before is not None and after is not None
        return f"Accuracy went from {percent(before.acc)} to {percent(after.acc)}", ""
    if flagged is not None:
        return f"{_of(flagged, count)} samples are suspicious", ""
    done = _done(facts).short
    return done[:1].upper() + done[1:], ""


def _poisoned(facts: Facts) -> SummaryItem:
    verdict, found = facts.outcome.verdict, facts.metrics.detection
    if verdict is not None and verdict.poisoned is None and FOR_A_LOOK in verdict.meaning:
        short, long = "No answer", "This run was for a look, and not meant to find anything."
    elif verdict is None or verdict.poisoned is None:
        short = "Not asked"
        long = f"{facts.defense.name} does not judge whether there is poison; it works as if there were."
    elif verdict.poisoned:
        short, long = "Yes", ""
    else:
        short = "No evidence"
        power = facts.metrics.power
        unknown = "how much poison would have been found was not measured (a run with spike does)"
        long = f"That is not the same as clean: {unknown}." if power is None else power.sentence
        long += " Look at the most suspicious samples."
    if found is not None:
        truth = f"{number(found.poison)} samples are poison" if found.poison else "there is no poison"
        long = f"{long} In truth {truth}.".strip()
    return SummaryItem("Was it poisoned?", short, long)


def _done(facts: Facts) -> SummaryItem:
    parts = []
    summary = facts.exhibits.summary if facts.exhibits else None
    if facts.outcome.flagged is not None:
        parts.append(f"flagged {_of(facts.outcome.flagged, facts.suspects)} samples")
    if summary is not None and summary.images_changed is not None:
        everything = summary.images_changed == facts.suspects and summary.images_changed
        whole = f"all {number(facts.suspects)}" if everything else _of(summary.images_changed, facts.suspects)
        parts.append(f"changed {whole} images")
        if summary.labels_changed:
            parts.append(f"{number(summary.labels_changed)} labels")
    what = {"repair": "repaired the model", "train": "trained a model"}.get(facts.defense.kind)
    if what is not None:
        parts.insert(0, what)
    elif facts.metrics.after is not None:
        parts.append("trained a model on the result")
    if not parts:
        parts = [
            {"detect": "ranked all samples", "purify": "purified the set"}.get(facts.defense.kind, "ran to the end")
        ]
    short = ", ".join(parts)
    long = ""
    if summary is not None and summary.kept is not None and summary.kept != facts.suspects:
        long = f"{number(summary.kept)} samples are kept."
    return SummaryItem("What was done?", short[:1].upper() + short[1:], long)


def _cost(facts: Facts) -> SummaryItem:
    total = facts.outcome.timings.get("total")
    device = facts.environment.get("device")
    short = duration(total)
    before, after = facts.metrics.before, facts.metrics.after
    long = f"On {device}." if device else ""
    if _both(before, after, "acc"):
        assert before is not None and after is not None and before.acc is not None and after.acc is not None
        lost = before.acc - after.acc
        word = "and no accuracy" if lost <= 0 else f"and {100 * lost:.1f} points of accuracy"
        short = f"{short} {word}"
    return SummaryItem("What did it cost?", short, long)


def _certainty(facts: Facts) -> SummaryItem:
    question, found, after = "How sure is it?", facts.metrics.detection, facts.metrics.after
    if found is not None and (found.tpr is not None or found.fpr is not None):
        parts = [] if found.tpr is None else [f"{percent(found.tpr)} of the poison found"]
        parts += [] if found.fpr is None else [f"{percent(found.fpr)} false alarms"]
        auroc = "" if found.auroc is None else f" AUROC of the scores {found.auroc:.3f}."
        return SummaryItem(question, ", ".join(parts), f"Checked against the truth.{auroc}")
    if found is not None and found.auroc is not None:
        return SummaryItem(question, f"AUROC {found.auroc:.3f}", "Checked against the truth.")
    if after is not None and after.acc is not None:
        return SummaryItem(question, "Measured on test data", "The defense never saw it. One run, one seed.")
    if facts.case.get("test") is not None:
        return SummaryItem(question, "Not measured", "No model was trained on the result: a run with retrain does.")
    return SummaryItem(question, "Nothing to check it against", "Neither truth nor test data came with this set.")


def _basis(facts: Facts) -> str:
    verdict = facts.outcome.verdict
    if verdict is None or verdict.score is None:
        return ""
    meaning = f": {verdict.meaning.rstrip('.')}" if verdict.meaning else ""
    return f"The verdict rests on a score of {number(round(verdict.score, 3))}{meaning}."


def _both(before: ModelMetrics | None, after: ModelMetrics | None, key: str) -> bool:
    return getattr(before, key, None) is not None and getattr(after, key, None) is not None


def _of(part: int | None, whole: int | None) -> str:
    return number(part) if whole is None else f"{number(part)} of {number(whole)}"
