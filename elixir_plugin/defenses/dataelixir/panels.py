"""DataElixir, what the report shows of it; where labels went is shown of every defense."""

from __future__ import annotations

from ...core.outcome import Outcome
from ...core.panels import Bars, Level, Panel, Table, line_panels

TRAINING = (("Training", "Loss of each classifier on the way, in nats.", ("*_loss",)),)


def panels_of(outcome: Outcome) -> list[Panel]:
    """Return the statistic that finds target classes, what samples of each class did, and the trainings."""
    classes = outcome.tables.get("classes", [])
    names = [str(row["class"]) for row in classes]
    panels: list[Panel] = []
    if classes:
        few = not outcome.tables.get("relative", True)
        excess = outcome.tables.get("detection") == "excess"
        unit = "share of votes" if excess else "nats"
        measured = (
            "How much more of the votes a class's purified samples lose than reserved clean images do, "
            if excess
            else "How far the labels of a class's purified samples scatter away from it, "
        )
        panels.append(
            Bars(
                title="Target statistic per class",
                caption=measured
                + (f"in {unit}" if few else "in robust deviations from the median class")
                + "; classes above the line are taken for targets of an attack.",
                labels=names,
                values={"statistic": [row["score"] for row in classes]},
                levels=[Level(name="threshold", value=outcome.tables["threshold"])]
                if "threshold" in outcome.tables
                else [],
                x_label="class",
                y_label=unit if few else "robust score",
            )
        )
        states = ("unanimous", "ambiguous")
        panels.append(
            Bars(
                title="Samples that changed their label when purified",
                caption="Share of each class. unanimous: all purified copies agree on another label; ambiguous: they "
                "do not agree.",
                labels=names,
                values={state: [row[state] / max(1, row["size"]) for row in classes] for state in states},
                x_label="class",
                y_label="share of the class",
            )
        )
    panels += line_panels(outcome.curves, TRAINING, x_label="epoch")
    rows = [
        [f"{what}: {name}", value]
        for what in ("status", "action", "changed")
        for name, value in outcome.tables.get(what, {}).items()
    ]
    if rows:
        panels.append(
            Table(
                title="What became of the samples",
                caption="status: by the votes on purified copies; action: what was done.",
                header=["", "samples"],
                rows=rows,
            )
        )
    return panels
