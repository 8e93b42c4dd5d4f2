"""What a pipeline hands back: the outcomes of its steps put together, over the samples of the suspect set.

``tables["steps"]`` has an entry per step: what it was given and what became of it, its verdict, and its own tables. In
these, positions count the samples that the step was given; ``rows`` are their positions in the suspect set, and None
where the step was given all of it. ``tables["samples"]`` holds a list of N values for each thing that a step said of
samples, None for those it was not given: ``"1 confusion_training: score"``, ``"2 dataelixir: label"``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.images import Index
from ...core.outcome import Outcome, StepOutcome, Verdict
from ...core.panels import Flow, FlowStage, Panel, Table
from ...io.files import to_json_types
from .plan import Step
from .state import Given, State

DONE, SKIPPED, NOT_REACHED = "done", "skipped", "not reached"
COLUMNS = {"given": "given", "flagged": "flagged", "images": "images changed", "labels": "labels changed",
           "dropped": "dropped", "left": "left"}  # fmt: skip


@dataclass
class Record:
    """One step as it went.

    :param state: whether it was done.
    :param reason: why not.
    :param status: where all samples stand after it, see ``State.status``.
    :param dropped: samples that were left out for it or by it.
    :param left: samples that are left after it.
    :param images: how many images it changed; None where it hands back no set.
    """

    step: Step
    state: str
    reason: str = ""
    given: Given | None = None
    outcome: Outcome | None = None
    status: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    left: int = 0
    images: int | None = None

    def facts(self, count: int) -> dict[str, Any]:
        """Return what the tables say of the step; *count* is the size of the suspect set."""
        step, outcome, given = self.step, self.outcome, self.given
        facts: dict[str, Any] = {
            "step": step.number,
            "name": step.defense.name,
            "kind": step.kind,
            "options": step.options.options(),
            "state": self.state,
            "reason": self.reason,
            "dropped": self.dropped,
            "left": self.left,
            "status": self.status,
        }
        if outcome is None or given is None:
            return facts
        before, after = given.case.train, outcome.train
        changed = after is not None and before is not None
        verdict = outcome.verdict
        return facts | {
            "given": len(given.rows),
            "flagged": None if outcome.flagged is None else int(outcome.flagged.sum()),
            "labels": int((after.labels != before.labels).sum()) if changed else None,  # type: ignore[union-attr]
            "images": self.images,
            "rows": None if len(given.rows) == count else given.rows,
            "targets": given.targets,
            "clean": {"verified": _size(given.case.clean) - given.unverified, "not_verified": given.unverified},
            "model": outcome.model is not None,
            "verdict": None if verdict is None else dataclasses.asdict(verdict),
            "tables": outcome.tables,
        }


def _size(images: Any) -> int:
    return 0 if images is None else len(images)


def build_outcome(state: State, records: list[Record], *, kind: str, stopped: bool) -> Outcome:
    """Return the outcome of a pipeline of *kind* whose steps went as *records* say.

    :param stopped: a step found nothing, and ended it.
    """
    train = state.case.train
    count = 0 if train is None else len(train)
    done = [each for each in records if each.outcome is not None]
    outcome = Outcome(scores=_scores(done, count), verdict=_verdict(done), model=state.model)
    if stopped and outcome.model is None and state.case.model is not None and kind in ("train", "repair"):
        outcome.model = state.case.model.clone().eval()
    if train is not None and any("train" in each.step.defense.needs for each in done):
        outcome.kept = state.good_rows()
    if state.detected:
        outcome.flagged = state.flagged.copy()
    elif (
        done and (last := done[-1]).outcome is not None and last.outcome.flagged is not None and last.given is not None
    ):
        outcome.flagged = np.zeros(count, bool)
        outcome.flagged[last.given.rows] = last.outcome.flagged
    if state.changed.any():
        outcome.train = state.images
    outcome.augmentation, outcome.static_augmentation = state.added, state.static
    outcome.noise_level = state.noise_level
    outcome.curves = {
        f"{each.step.label}: {name}": values
        for each in done
        for name, values in each.outcome.curves.items()  # type: ignore[union-attr]
    }
    outcome.tables = to_json_types(
        {
            "steps": [each.facts(count) for each in records],
            "samples": _samples(done, count),
            "suspects": count,
            "stopped": stopped,
        }
    )
    outcome.notes = _notes(records)
    outcome.steps = [_step_outcome(each) for each in done]
    outcome.undefended = done[0].outcome.undefended if done and done[0].outcome is not None else None
    return outcome


def panels_of(outcome: Outcome, steps: list[Step]) -> list[Panel]:
    """Return the way of the set, a table of the steps, and the panels of each step."""
    entries: list[dict[str, Any]] = outcome.tables.get("steps", [])
    panels: list[Panel] = []
    if outcome.tables.get("suspects") and any(each["status"] for each in entries):
        panels.append(_flow(entries, int(outcome.tables["suspects"])))
    if entries:
        rows = [[f"{each['step']} {each['name']}", each["kind"], *(each.get(key) for key in COLUMNS),
                 each["reason"] or each["state"]] for each in entries]  # fmt: skip
        panels.append(
            Table(
                title="Step by step",
                caption="Samples that each step was given, what it did with them, and how many were left after it.",
                header=["step", "kind", *COLUMNS.values(), "state"],
                rows=rows,
            )
        )
    for step, entry in zip(steps, entries, strict=False):
        prefix = f"{step.label}: "
        curves = {name.removeprefix(prefix): each for name, each in outcome.curves.items() if name.startswith(prefix)}
        if entry["state"] != DONE:
            continue
        own = Outcome(curves=curves, tables=entry["tables"], verdict=_read_verdict(entry["verdict"]))
        panels += [each.model_copy(update={"title": prefix + each.title}) for each in step.defense.panels(own)]
    return panels


def _flow(entries: list[dict[str, Any]], count: int) -> Flow:
    stages = [FlowStage(name="suspect set", said=f"{count:,} in", parts={"as it came": count})]
    for each in entries:
        if each["status"]:
            name = f"{each['step']} {each['name']}"
            stages.append(FlowStage(name=name, said=_said(each), parts=each["status"]))
    left = stages[-1].parts
    out = count - left.get("dropped", 0)
    stages.append(FlowStage(name="to go on with", said=f"{out - left.get('flagged', 0):,} out", parts=left))
    words = "; ".join(f"{stage.name}: {stage.said}" for stage in stages)
    return Flow(title="The way of the set", caption=f"{words}.", stages=stages)


def _said(entry: Mapping[str, Any]) -> str:
    """Return in a few words what a step did with the set."""
    if entry["state"] != DONE:
        return str(entry["reason"] or entry["state"])
    parts = [f"{entry[key]:,} {word}" for key, word in (("flagged", "flagged"),)
             if entry["kind"] == "detect" and entry.get(key) is not None]  # fmt: skip
    parts += [f"{entry[key]:,} {word}" for key, word in (("images", "purified"), ("labels", "relabelled"),
                                                         ("dropped", "dropped")) if entry.get(key)]  # fmt: skip
    if entry["kind"] in ("train", "repair") and entry.get("model"):
        parts.append("model trained" if entry["kind"] == "train" else "model repaired")
    return ", ".join(parts) or "nothing changed"


def _scores(done: list[Record], count: int) -> Any:
    """Return the scores of the last step that detects, else of the last that scored the whole set, or None."""
    for detects in (True, False):
        for each in reversed(done):
            assert each.outcome is not None and each.given is not None
            scores, rows = each.outcome.scores, each.given.rows
            if scores is None or (each.step.kind == "detect") != detects or not len(rows):
                continue
            if len(rows) == count:
                return scores
            if detects:  # what is missing was dropped before, as more suspicious
                whole = np.full(count, scores.max() + 1)
                whole[rows] = scores
                return whole
    return None


def _verdict(done: list[Record]) -> Verdict | None:
    """Return the first verdict that there is poison, else the last verdict; its meaning names the step."""
    found = [(each.step.label, each.outcome.verdict) for each in done if each.outcome and each.outcome.verdict]
    if not found:
        return None
    label, verdict = next((each for each in found if each[1].poisoned), found[-1])
    return dataclasses.replace(verdict, meaning=f"step {label}: {verdict.meaning}".rstrip(": "))


def _samples(done: list[Record], count: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for each in done:
        outcome, given = each.outcome, each.given
        assert outcome is not None and given is not None
        said: dict[str, Any] = {"score": outcome.scores, "flagged": outcome.flagged}
        if outcome.train is not None:
            said["label"] = outcome.train.labels
        own = outcome.tables.get("samples")
        if isinstance(own, Mapping):
            said |= {name: values for name, values in own.items() if name not in said}
        for name, values in said.items():
            if values is not None and isinstance(values, list | np.ndarray) and len(values) == len(given.rows):
                found[f"{each.step.label}: {name}"] = _expanded(values, given.rows, count)
    return found


def _expanded(values: Any, rows: Index, count: int) -> list[Any]:
    plain = to_json_types(values)
    if len(rows) == count:
        return list(plain)
    whole: list[Any] = [None] * count
    for row, value in zip(rows.tolist(), plain, strict=True):
        whole[row] = value
    return whole


def _notes(records: Iterable[Record]) -> list[str]:
    """Return what the steps noted, each note once, with the steps that noted it."""
    found: dict[str, list[str]] = {}
    for each in records:
        if each.state == SKIPPED:
            found.setdefault(f"left out: {each.reason}", []).append(each.step.label)
        if each.given is not None and each.given.unverified:
            text = f"{each.given.unverified:,} samples of its reserved clean set are what is left of the suspect set: "
            found.setdefault(text + "not verified by anybody", []).append(each.step.label)
        for note in () if each.outcome is None else each.outcome.notes:
            found.setdefault(note, []).append(each.step.label)
    return [f"step{'s' if len(labels) > 1 else ''} {', '.join(labels)}: {note}" for note, labels in found.items()]


def _step_outcome(record: Record) -> StepOutcome:
    assert record.outcome is not None and record.given is not None
    return StepOutcome(record.step.label, record.step.kind, record.given.rows, record.given.case.train, record.outcome)


def _read_verdict(value: Any) -> Verdict | None:
    return None if value is None else Verdict(**value)
