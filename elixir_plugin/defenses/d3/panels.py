"""What the report shows of a D3 run: distances, clean loss and selected layers."""

from __future__ import annotations

from typing import Any

from ...core.outcome import Outcome
from ...core.panels import Level, Lines, Panel, Series, Table

SHOWN = 6  # layers that get a line in the figure


def panels_of(outcome: Outcome, eps: float) -> list[Panel]:
    """Return figures of distance and clean loss per epoch, and a table of the selected layers."""
    curves, tables = outcome.curves, outcome.tables
    distances = {name.removeprefix("distance/"): each for name, each in curves.items() if name.startswith("distance/")}
    farthest = sorted(distances, key=lambda name: -distances[name][-1])[:SHOWN]
    panels: list[Panel] = []
    if farthest:
        panels.append(
            Lines(
                title="Distance from the received weights",
                caption="‖W − W⁰‖ / ‖W⁰‖ of each selected layer, 2 at most. D3 maximises it; the distance "
                "alone does not tell how much of the backdoor is gone."
                + (f" The {SHOWN} layers that moved most." if len(distances) > SHOWN else ""),
                series=[Series(name=name, y=distances[name]) for name in farthest],
                x_label="epoch",
                y_label="distance ratio",
            )
        )
    losses = [
        Series(name=name.replace("_", " "), y=curves[name]) for name in ("clean_loss", "penalty") if name in curves
    ]
    if losses:
        panels.append(
            Lines(
                title="Clean loss",
                caption="Mean cross-entropy on the reserved clean set in nats, and what of it lies above ε: the price "
                "that keeps the weights where clean images are still recognised.",
                series=losses,
                levels=[Level(name="ε", value=eps)],
                x_label="epoch",
                y_label="nats",
            )
        )
    if path := tables.get("multiplier"):
        panels += _multiplier_panels(path)
    ratios = tables.get("distance_ratio", {})
    if ratios:
        start = tables.get("start_distance_ratio", {})
        panels.append(
            Table(
                title="Selected layers",
                caption="Distance ratio where the descent started, and where it ended.",
                header=["layer", "start", "end"],
                rows=[[name, start.get(name), value] for name, value in list(ratios.items())[:40]],
            )
        )
    if kept := tables.get("protected"):
        panels.append(
            Table(
                title="Classes without clean samples",
                caption="Their images are dreamt from the suspect model: how many there are, and which share of them "
                "the suspect model and the repaired one call by their class. Real images are called so less often.",
                header=["class", "images", "suspect model", "repaired", "bias raised by"],
                rows=[[row[key] for key in ("class", "dreamt", "received", "repaired", "bias_raised")] for row in kept],
            )
        )
    return panels


def _multiplier_panels(path: dict[str, Any]) -> list[Panel]:
    """Return how λ and the loss it answers for went, and what came of it."""
    held = path["held_back"]
    where = (
        f"{held} reserved samples that are held back" if held else "the reserved clean set, no sample of it held back"
    )
    word = {True: "met", False: "not met", None: "not measured: too few steps"}[path["met"]]
    facts = [
        ["loss of the suspect model (nats)", path["received"]],
        ["allowed (nats)", path["allowed"]],
        ["measured last (nats)", path["loss"][-1] if path["loss"] else None],
        ["λ of the last steps", path["final_lam"]],
        ["constraint", word],
        ["rounds", path.get("rounds", 1)],
    ]
    panels: list[Panel] = [
        Table(
            title="Clean loss that is allowed",
            caption=f"Cross-entropy on {where}. What is measured last is what λ led to, before the last steps train on "
            "all reserved samples.",
            header=["what", "value"],
            rows=facts,
        )
    ]
    if path["step"]:
        shared: dict[str, Any] = {"x_label": "step"}
        panels += [
            Lines(
                title="Loss of held-back samples",
                caption=f"Cross-entropy on {where}. Below the level λ falls; above it λ rises while that helps.",
                series=[Series(name="clean loss", x=path["step"], y=path["loss"])],
                levels=[Level(name="allowed", value=path["allowed"])],
                y_label="nats",
                **shared,
            ),
            Lines(
                title="λ",
                caption="Price of clean loss against distance. It starts low, so that the weights first go far.",
                series=[Series(name="λ", x=path["step"], y=path["lam"])],
                log_y=True,
                y_label="λ",
                **shared,
            ),
        ]
    return panels
