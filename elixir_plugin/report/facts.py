"""``report.json`` as the page reads it: checked, with everything that older files lack left empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ..core.metrics import Evaluation
from ..core.outcome import Verdict
from ..errors import InputError
from ..io.reading import read_json


class _Facts(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Outcome(_Facts):
    """What a defense handed back, without tensors; see ``outcome.Outcome.summary``."""

    verdict: Verdict | None = None
    flagged: int | None = None
    timings: dict[str, float] = {}


class Sample(_Facts):
    """One sample of a sheet; see ``exhibits``."""

    index: int
    pictures: list[str]
    name: str | None = None
    old_label: int | None = None
    new_label: int | None = None
    score: float | None = None
    flagged: bool | None = None
    change: float | None = None
    truth: str | None = None
    true_label: int | None = None
    target_label: int | None = None
    before: int | None = None
    after: int | None = None


class Sheet(_Facts):
    """Samples shown side by side, and why these; see ``exhibits``."""

    title: str
    caption: str = ""
    samples: list[Sample]


class SetSummary(_Facts):
    """What became of the set as a whole; see ``exhibits``."""

    kept: int | None = None
    images_changed: int | None = None
    labels_changed: int | None = None
    rms_change: float | None = None


class Exhibits(_Facts):
    """What is kept for the page beside the numbers; see ``exhibits``."""

    summary: SetSummary = SetSummary()
    sheets: list[Sheet] = []
    scores: list[dict[str, Any]] = []
    panels: list[dict[str, Any]] = []
    problem: str | None = None


class Source(_Facts):
    """Where the case came from."""

    adapter: str
    path: str


class Run(BaseModel):
    """The settings of the run; what is not named here is shown all the same."""

    model_config = ConfigDict(extra="allow", frozen=True)

    defense: str
    source: Source
    seed: int = 0


class DefenseFacts(_Facts):
    """Which defense it was, and its paper."""

    name: str
    kind: str
    paper: str = ""


class Facts(_Facts):
    """The content of a ``report.json``."""

    version: Literal[1] = Field(1, alias="schema")  # earlier reports have none
    elixir_plugin: str
    run: Run
    identity: str = ""
    command: str | None = None
    defense: DefenseFacts
    case: dict[str, Any] = {}
    metrics: Evaluation
    outcome: Outcome
    notes: list[str] = []
    written: list[str] = []
    environment: dict[str, str | None] = {}
    attempts: int = Field(1, validation_alias=AliasChoices("attempts", "goes"))  # "goes" in earlier reports
    exhibits: Exhibits | None = None

    @property
    def suspects(self) -> int | None:
        """Size of the suspect set; None without one."""
        train = self.case.get("train")
        count = train.get("samples") if isinstance(train, dict) else None
        return count if isinstance(count, int) else None


def facts_of(report: Any, *, where: object = None) -> Facts:
    """Check the content of a ``report.json``.

    :raises InputError: when it is not that of a run.
    """
    try:
        return Facts.model_validate(report)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"]) or "the whole"
        raise InputError(
            "not the report of a run",
            where=where,
            found=f"{place}: {fault['msg']}",
            hint="name a run folder, as 'elixir-plugin run' leaves it",
        ) from None


def read_facts(folder: Path) -> Facts:
    """Read the report of a run folder.

    :raises InputError: when there is none, or it is damaged.
    """
    return facts_of(read_json(folder / "report.json"), where=folder / "report.json")
