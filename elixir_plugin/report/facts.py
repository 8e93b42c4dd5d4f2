"""``report.json`` as the page reads it: checked, with everything that older files lack left empty."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, ValidationError

from ..core.metrics import Evaluation
from ..core.outcome import Verdict
from ..core.panels import AnyPanel
from ..io.checked import Count, Finite, Flag, Seconds, checked, refuse_newer
from ..io.checked import Facts as _Facts
from ..io.reading import read_json

SCHEMA = 1  # of report.json; a reader of this version takes no later one
WHAT = "not the report of a run"
Label = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]


class Outcome(_Facts):
    """What a defense handed back, without tensors; see ``outcome.Outcome.summary``."""

    verdict: Verdict | None = None
    flagged: Count | None = None
    timings: dict[str, Seconds] = Field({})


class Sample(_Facts):
    """One sample of a sheet; see ``exhibits``."""

    index: Count
    pictures: list[str]
    name: str | None = None
    old_label: Label | None = None
    new_label: Label | None = None
    score: Finite | None = None
    flagged: Flag | None = None
    change: Finite | None = None
    truth: str | None = None
    true_label: Label | None = None
    target_label: Label | None = None
    before: Label | None = None
    after: Label | None = None


class Sheet(_Facts):
    """Samples shown side by side, and why these; see ``exhibits``."""

    title: str
    caption: str = ""
    samples: list[Sample]


class SetSummary(_Facts):
    """What became of the set as a whole; see ``exhibits``."""

    kept: Count | None = None
    images_changed: Count | None = None
    labels_changed: Count | None = None
    rms_change: Finite | None = None


class Exhibits(_Facts):
    """What is kept for the page beside the numbers; see ``exhibits``."""

    summary: SetSummary = SetSummary()
    sheets: list[Sheet] = Field([])
    scores: list[AnyPanel] = Field([])
    panels: list[AnyPanel] = Field([])
    relearning: list[AnyPanel] = Field([])
    power: list[AnyPanel] = Field([])
    recommendation: list[AnyPanel] = Field([])
    problem: str | None = None


class Source(_Facts):
    """Where the case came from."""

    adapter: str
    path: str


class Part(_Facts):
    """One set of the case; see ``describe``."""

    samples: Count
    shape: list[Count] = Field(min_length=3, max_length=3)
    fingerprint: str


class CaseFacts(_Facts):
    """What the case was made of; see ``describe``."""

    train: Part | None = None
    clean: Part | None = None
    test: Part | None = None
    test_poisoned: Part | None = None


def checked_case(value: dict[str, Any]) -> dict[str, Any]:
    """Return *value*, what ``describe`` says of a case, for pydantic.

    :raises ValueError: when it is not.
    """
    try:
        CaseFacts.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    return value


class Run(_Facts):
    """The settings of the run; what is not named here is shown all the same."""

    model_config = ConfigDict(extra="allow", frozen=True)

    defense: str
    source: Source
    seed: Count = 0


class DefenseFacts(_Facts):
    """Which defense it was, and its paper."""

    name: str
    kind: str
    paper: str = ""


class Facts(_Facts):
    """The content of a ``report.json``."""

    elixir_plugin: str
    run: Run
    identity: str = ""
    command: str | None = None
    defense: DefenseFacts
    case: Annotated[dict[str, Any], AfterValidator(checked_case)] = Field({})
    metrics: Evaluation
    outcome: Outcome
    notes: list[str] = Field([])
    written: list[str] = Field([])
    environment: dict[str, str | None] = Field({})
    attempts: Count = Field(1, validation_alias=AliasChoices("attempts", "goes"))  # "goes" in earlier reports
    exhibits: Exhibits | None = None

    @property
    def suspects(self) -> int | None:
        """Size of the suspect set; None without one."""
        train = self.case.get("train")
        return None if train is None else int(train["samples"])


def facts_of(report: Any, *, where: object = None) -> Facts:
    """Check the content of a ``report.json``.

    :raises InputError: when it is not that of a run, or was written by a later version.
    """
    refuse_newer(report, SCHEMA, where)
    return checked(Facts, report, what=WHAT, where=where)


def read_facts(folder: Path) -> Facts:
    """Read the report of a run folder.

    :raises InputError: when there is none, or it is damaged.
    """
    return facts_of(read_json(folder / "report.json"), where=folder / "report.json")


def read_report(folder: Path) -> dict[str, Any]:
    """Return the content of ``report.json`` in *folder*, in JSON types, with what reports of earlier versions lack.

    :raises InputError: when there is none, or it is damaged.
    """
    content = read_json(folder / "report.json")
    facts = facts_of(content, where=folder / "report.json")
    verdict = facts.outcome.verdict
    outcome = {"verdict": None if verdict is None else dataclasses.asdict(verdict), "flagged": facts.outcome.flagged}
    return {
        "classes": None,
        **content,
        "run": {"seed": facts.run.seed, **content["run"]},
        "metrics": dataclasses.asdict(facts.metrics),
        "outcome": {**content["outcome"], **outcome, "timings": facts.outcome.timings},
        "notes": facts.notes,
        "written": facts.written,
        "environment": facts.environment,
        "case": facts.case,
        "identity": facts.identity,
        "attempts": facts.attempts,
    }
