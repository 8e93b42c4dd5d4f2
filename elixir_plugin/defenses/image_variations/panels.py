"""Image variations, what the report shows of it."""

from __future__ import annotations

from ...core.outcome import Outcome
from ...core.panels import Bars, Level, Lines, Panel, Series, line_panels


def panels_of(outcome: Outcome, agreement: float) -> list[Panel]:
    """Return the search of the strength, what the teacher sees in the variations of each class, and how both learned.

    :param agreement: share of clean images that the teacher must still recognise in their variations.
    """
    curves, classes = outcome.curves, outcome.tables.get("classes") or []
    panels: list[Panel] = []
    if curves.get("strength"):
        panels.append(
            Lines(
                title="Search of the strength",
                caption="Share of reserved clean images whose variation the teacher still recognises, for every "
                "strength that was tried. The highest one above the line is taken: it takes most of a trigger away.",
                series=[Series(name="agreement", x=curves["strength"], y=curves["strength_agreement"], mark=True)],
                levels=[Level(name="wanted", value=agreement)],
                x_label="strength",
                y_label="agreement",
            )
        )
    if classes:
        panels.append(
            Bars(
                title="Variations in the teacher's eyes",
                caption="Per label: the share of variations seen as their image is, and the share seen as another "
                "class than the label. Much of the latter in one class alone: triggers were removed there.",
                labels=[str(row["class"]) for row in classes],
                values={
                    "seen as their image": [row["agreement"] for row in classes],
                    "seen as another class": [row["relabelled"] for row in classes],
                },
                x_label="label",
                y_label="share",
            )
        )
    learning = (
        ("Teacher", "Loss on the suspect set, by epoch.", ("teacher_loss",)),
        ("Student", "Distillation (kd) and hard labels (ce), by epoch.", ("student_loss", "student_kd", "student_ce")),
    )
    return panels + line_panels(curves, learning, x_label="epoch")
