"""Result cards: small JSON files that hold what a defense reached beside what others report of it.

They lie in ``elixir_plugin/results/`` and in any folder a user names; ``elixir-plugin cards`` prints them, and
``elixir-plugin cards add`` makes one from finished runs. Numbers are shares in [0, 1].
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..core.settings import Settings, fingerprint
from ..errors import InputError, RunError, SettingsError
from ..io.environment import PACKAGES
from ..io.files import write_json
from ..io.reading import read_json
from ..plugins import plugins
from ..report.facts import read_report
from .conditions import Conditions
from .folder import is_finished
from .spec import RunSpec

BUILT_IN = Path(__file__).parent.parent / "results"
Share = Annotated[float, Field(ge=0, le=1)]
Metric = Literal["acc", "asr", "ra", "der", "tpr", "fpr", "auroc"]
METRICS: tuple[Metric, ...] = ("acc", "asr", "ra", "der", "tpr", "fpr", "auroc")
VARYING = ("seed", "out", "write_back", "write_to", "device", "threads")  # what runs of one card may differ in


class Measured(Settings):
    """One measured number, over all seeds of the card."""

    value: Share = Field(description="the number itself")
    statistic: Literal["single run", "median", "mean"] = Field("single run", description="what the value is")
    low: Share | None = Field(None, description="smallest over the seeds")
    high: Share | None = Field(None, description="largest over the seeds")
    std: float | None = Field(None, ge=0, description="sample standard deviation over the seeds")


class Reported(Settings):
    """Numbers that someone else reached, and who."""

    source: str = Field(description="paper and table, or whose code was run")
    setting: str = Field("", description="how the setting differs from the card's, in words")
    before: dict[Metric, Share] = Field({}, description="of the undefended model")
    numbers: dict[Metric, Share] = Field(description="with the defense")


class ResultCard(Settings):
    """What one defense with one set of settings reached on one case.

    >>> card = ResultCard.build({"defense": "d3", "case": "digits", "seeds": [0], "device": "cpu", "source": "here",
    ...                          "measured": {"acc": {"value": 0.9}}})
    >>> card.measured["acc"].value, card.reported
    (0.9, ())
    """

    added: ClassVar[Mapping[str, Any]] = MappingProxyType({"details": {}, "attack": None, "setting": None, "run": None})

    format: int = Field(1, ge=1, le=1, description="version of this format")
    defense: str = Field(description="its name")
    preset: str | None = Field(None, description="named settings below `settings`")
    settings: dict[str, Any] = Field({}, description="settings beside the defaults, or all of them")
    retrain: dict[str, Any] | None = Field(None, description="how a model was trained on what the defense left")
    case: str = Field(description="what was defended, in words")
    attack: str | None = Field(None, description="the poison, by its name here; `clean`: none; None: not recorded")
    setting: Conditions | None = Field(None, description="what the case is, in terms that published numbers share")
    run: dict[str, Any] | None = Field(None, description="what to run again, as a run file has it, without the seed")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1, description="the seeds of the runs")
    versions: dict[str, str | None] = Field({}, description="of the packages that may change a result, where recorded")
    device: str = Field(description="what it ran on")
    before: dict[Metric, Share] = Field({}, description="of the undefended model; over seeds the mean")
    measured: dict[Metric, Measured] = Field(min_length=1, description="with the defense")
    reported: tuple[Reported, ...] = Field((), description="what others report")
    source: str = Field(description="where the measured numbers are stated, or the runs they come from")
    notes: tuple[str, ...] = Field((), description="what a reader must know")
    details: dict[str, Any] = Field({}, description="more facts on the runs, by name, e.g. seconds, commit, command")

    @property
    def name(self) -> str:
        """The file name of the card, without suffix: what it is about, and a hash of defense, settings and case."""
        facts = self.model_dump(mode="json", include={"defense", "preset", "settings", "retrain", "case"})
        case = re.sub(r"[^a-z0-9]+", "-", self.case.lower()).strip("-")[:30].strip("-")
        return f"{self.defense}-{case or 'case'}-{fingerprint(facts)[:6]}"


def load_cards(*folders: Path) -> list[ResultCard]:
    """Return the cards in *folders*, default the built-in ones, ordered by defense, case and name.

    :raises InputError: for a file that cannot be read.
    :raises SettingsError: for a file that is no card.

    >>> {card.defense for card in load_cards()} >= {"d3", "eclipse", "confusion_training"}
    True
    """
    cards = []
    for folder in folders or (BUILT_IN,):
        if not folder.is_dir():
            raise InputError("folder of result cards not found", where=folder)
        for file in sorted(folder.glob("*.json")):
            cards.append(read_card(file))
    return sorted(cards, key=lambda card: (card.defense, card.case, card.name))


def read_card(file: Path) -> ResultCard:
    """Read one card.

    :raises InputError: for a file that cannot be read.
    :raises SettingsError: for a file that is no card.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError("not a result card", where=file, found=type(content).__name__, allowed="an object")
    return ResultCard.build(content, where=str(file))


def card_from_runs(
    folders: Sequence[Path], *, case: str | None = None, reported: Sequence[Reported] = ()
) -> ResultCard:
    """Make a card from finished runs that differ in their seed alone.

    :param case: what was defended, in words; default: adapter and name of the source.
    :raises InputError: when a folder holds no finished run.
    :raises SettingsError: when the runs differ in more than the seed, or share one.
    """
    reports = [_report(folder) for folder in folders]
    if not reports:
        raise SettingsError("a card needs a run", where="cards add", allowed="one run folder or more")
    runs = [report["run"] for report in reports]
    for folder, run in zip(folders, runs, strict=True):
        other = {key for key in run if key not in VARYING and run[key] != runs[0].get(key)}
        if other:
            raise SettingsError(
                "runs of one card may differ in the seed alone", where=folder, found=f"other {', '.join(sorted(other))}"
            )
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise SettingsError("two runs with one seed", where="cards add", found=seeds)
    environments = [report["environment"] for report in reports]
    versions = [{key: each[key] for key in ("python", *PACKAGES) if key in each} for each in environments]
    notes = () if all(each == versions[0] for each in versions) else ("the runs were made with different versions",)
    source = runs[0]["source"]
    values = {
        "defense": runs[0]["defense"],
        "settings": runs[0]["settings"],
        "retrain": runs[0]["retrain"],
        "case": case or f"{source['adapter']}:{Path(source['path']).name}",
        **_conditions(reports[0]),
        "run": _again(runs[0]),
        "seeds": seeds,
        "versions": {"elixir_plugin": reports[0]["elixir_plugin"], **versions[0]},
        "device": ", ".join(sorted({each.get("device") or "not recorded" for each in environments})),
        "before": _means(reports),
        "measured": {metric: _spread(found) for metric in METRICS if (found := _after(reports, metric))},
        "reported": [each.dump() for each in reported],
        "source": f"runs {', '.join(report['identity'] for report in reports)}",
        "notes": notes,
        "details": {"seconds": statistics.fmean(sum(each["outcome"]["timings"].values()) for each in reports)},
    }
    return ResultCard.build(values, where=f"card of {folders[0]}")


def save_card(card: ResultCard, folder: Path) -> Path:
    """Write *card* to *folder* and return the file.

    :raises RunError: when there is another card of that name, or the folder cannot be written.
    """
    file = folder / f"{card.name}.json"
    if file.exists() and read_card(file) != card:
        raise RunError("there is another card of this name", where=file, hint="remove it, or choose {argument:to}")
    write_json(file, card.dump())
    return file


def card_lines_of(card: ResultCard) -> Iterator[str]:
    """Yield a card as text: one line for each number, measured beside reported."""
    seeds = f"seed {card.seeds[0]}" if len(card.seeds) == 1 else f"{len(card.seeds)} seeds"
    yield f"{card.defense} on {card.case}"
    yield f"  {made_text(card)}; {seeds}; {card.device}"
    yield f"  {'':<8}{'before':>8}{'measured':>22}{'reported':>10}"
    for metric in METRICS:
        numbers = [each.numbers.get(metric) for each in card.reported]
        if metric in card.measured or any(number is not None for number in numbers):
            said = "".join(f"{share_text(number):>10}" for number in numbers or [None])
            before, found = share_text(card.before.get(metric)), measured_text(card.measured.get(metric))
            yield f"  {metric.upper():<8}{before:>8}{found:>22}{said}"
    for each in card.reported:
        before = ", ".join(
            f"{metric.upper()} {share_text(each.before[metric])}" for metric in METRICS if metric in each.before
        )
        undefended = f" (undefended: {before})" if before else ""
        yield f"  reported by {each.source}{undefended}{': ' if each.setting else ''}{each.setting}"
    versions = [f"{package} {version}" for package, version in card.versions.items() if version is not None]
    yield f"  versions: {', '.join(versions) or 'not recorded'}"
    for note in card.notes:
        yield f"  note: {note}"
    plain = {key: value for key, value in card.details.items() if isinstance(value, str | int | float)}
    if plain:
        yield f"  details: {', '.join(f'{key} {value}' for key, value in plain.items())}"


def made_text(card: ResultCard) -> str:
    """Return preset and settings of *card*, the first six of them."""
    chosen = [*([f"preset {card.preset}"] if card.preset else []), *(f"{k}={v}" for k, v in card.settings.items())]
    return ", ".join(chosen if len(chosen) <= 6 else [*chosen[:6], "…"]) or "default settings"


def measured_text(number: Measured | None) -> str:
    """Return a number in percent, with range or deviation.

    >>> measured_text(Measured(value=0.482, statistic="median", low=0.475, high=0.496))
    '48.2 (47.5–49.6)'
    """
    if number is None:
        return "–"
    text = share_text(number.value)
    if number.std is not None:
        return f"{text} ± {100 * number.std:.1f}"
    if number.low is not None and number.high is not None:
        return f"{text} ({share_text(number.low)}–{share_text(number.high)})"
    return text


def share_text(share: float | None) -> str:
    """Return a share in percent; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f}"


def _report(folder: Path) -> dict[str, Any]:
    """Return the report of a finished run, with the parts that a card needs."""
    if not is_finished(folder):
        state = "a run that is not finished" if (folder / "run.yaml").is_file() else "no run"
        raise InputError("no finished run", where=folder, found=state, allowed="a folder with report.json")
    report = read_report(folder)
    run = {**RunSpec.from_yaml(folder / "run.yaml").dump(), **report["run"]}
    return {**report, "run": RunSpec.build(run, where=f"{folder / 'report.json'}: run").dump()}


def _again(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run for any seed and machine: of an absolute path only the name is kept, as a card is to be shared."""
    run = {key: value for key, value in run.items() if key not in VARYING}
    if run["source"]["adapter"] != "testbed":
        run["source"] = {**run["source"], "path": Path(run["source"]["path"]).name}
    named: dict[str, Any] = _without_places(run)
    return named


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_places(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(each) for each in value]
    if isinstance(value, str):
        adapter, colon, path = value.rpartition(":/")
        if colon or value.startswith("/"):
            return f"{adapter}{':' if colon else ''}{Path(path if colon else value).name}"
    return value


def _conditions(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return attack and setting of a run, as far as its report states them."""
    case, source = report["case"], report["run"]["source"]
    sizes = {name: (case.get(part) or {}).get("samples") for name, part in (("images", "train"), ("reserved", "clean"))}
    setting = {**sizes, "model": case.get("model")}
    if source["adapter"] != "testbed":
        return {"setting": setting}
    poison = plugins().get("poison", source["path"])(source["options"].get("poison") or {})
    rate = getattr(poison.settings, "rate", None)
    data = "embedded digits" if source["options"].get("base") in (None, "digits") else None
    return {"attack": source["path"] if rate != 0 else "clean", "setting": {**setting, "rate": rate, "data": data}}


def _after(reports: Sequence[Mapping[str, Any]], metric: Metric) -> list[float]:
    """Return *metric* of the runs that have it."""
    found = []
    for report in reports:
        metrics = report["metrics"]
        part = metrics if metric == "der" else metrics["after" if metric in ("acc", "asr", "ra") else "detection"]
        if part is not None and part.get(metric) is not None:
            found.append(float(part[metric]))
    return found


def _means(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    before = [report["metrics"]["before"] or {} for report in reports]
    values = {key: [each[key] for each in before if each.get(key) is not None] for key in ("acc", "asr", "ra")}
    return {key: statistics.fmean(found) for key, found in values.items() if found}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    if len(values) == 1:
        return {"value": values[0]}
    spread = {"low": min(values), "high": max(values), "std": statistics.stdev(values)}
    return {"value": statistics.fmean(values), "statistic": "mean", **spread}
