"""What the report shows of a Confusion Training run: tests per class, curves per round, a table of classes."""

from __future__ import annotations

import math

from ...core.outcome import Outcome
from ...core.panels import Bars, Level, Panel, Table, line_panels
from .settings import ConfusionSettings

CERTAIN = 30.0  # bars of −log10 p end here
ROUNDS = (
    (
        "What is still predicted, round by round",
        "isolated: suspects that the confused model still predicts as their label. confused accuracy: clean samples it "
        "was confused on, and held out accuracy: clean ones it never saw; both should be near chance.",
        ("isolated", "confused_accuracy", "held_out_accuracy"),
    ),
    (
        "Losses, round by round",
        "Of the base model, and of confusing its copy, in nats.",
        ("base_loss", "confusion_loss"),
    ),
    ("Distilled set, round by round", "Suspects that the base model of the round is trained on.", ("distilled",)),
)


def panels_of(outcome: Outcome, settings: ConfusionSettings) -> list[Panel]:
    """Return both tests of each class with their thresholds, curves over the rounds, and the table of classes."""
    classes = outcome.tables.get("classes", [])
    names = [str(row["class"]) for row in classes]
    panels: list[Panel] = []
    if classes:
        panels.append(
            Bars(
                title="Fitted better than clean samples",
                caption="−log10 of the p-value of each class: that its suspects are fitted better than nearly all "
                f"held-out clean samples by chance. Drawn up to {CERTAIN:g}.",
                labels=names,
                values={"−log10 p": [min(CERTAIN, -math.log10(max(row["p"], 1e-300))) for row in classes]},
                x_label="class",
                y_label="−log10 p",
                levels=_levels(settings),
            )
        )
        panels.append(
            Bars(
                title="Two populations in a class",
                caption="Log-likelihood ratio of each class: isolated samples as a population of their own, against "
                "one population. The largest needs the lower level, all others the higher one.",
                labels=names,
                values={"log ratio": [row["log_ratio"] for row in classes]},
                x_label="class",
                y_label="log ratio",
                levels=[
                    Level(name="for the largest", value=math.log(settings.top_threshold)),
                    Level(name="for others", value=math.log(settings.threshold)),
                ],
            )
        )
    panels += line_panels(outcome.curves, ROUNDS, x_label="round")
    if classes:
        keys = ("class", "samples", "isolated", "log_ratio", "state", "above", "p", "flagged")
        header = ["class", "samples", "isolated", "log ratio", "state", "above held-out", "p", "flagged"]
        rows = sorted(classes, key=lambda row: row["p"])[:40]
        panels.append(
            Table(
                title="Evidence per class",
                caption="The most conspicuous class first.",
                header=header,
                rows=[[str(row[key]) if key == "class" else row[key] for key in keys] for row in rows],
            )
        )
    return panels


def _levels(settings: ConfusionSettings) -> list[Level]:
    if settings.rule == "ratio":
        return []
    levels = [Level(name="flagged if the ratio agrees" if settings.rule != "held_out" else "flagged",
                    value=-math.log10(settings.p_value))]  # fmt: skip
    if settings.rule == "guarded":
        levels.append(Level(name="flagged in any case", value=-math.log10(settings.certain_p)))
    return levels
