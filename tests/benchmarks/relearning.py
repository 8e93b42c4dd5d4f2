"""How fast a backdoor comes back after a repair, on the embedded digits: the table of ``docs/relearning.md``.

Two poisons, three repairs, three seeds, by ``elixir_plugin``'s own comparison; and, as a control, two of these repairs
on the model that was never poisoned: what a repair itself does to the speed of learning. A killed run goes on with the
same command. The table is printed, and written to the page with ``--write``.

::

    OMP_NUM_THREADS=1 python tests/benchmarks/relearning.py --work FOLDER --write
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tables import DOCS, markdown, put

from elixir_plugin import Context, Source, get_adapter, get_defense
from elixir_plugin.evaluation.relearned import AFTER
from elixir_plugin.evaluation.relearning import STEPS, measure_relearning, never_poisoned
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.io.files import write_json
from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec

SPEC: dict[str, Any] = {
    "cases": ["testbed:badnets", "testbed:blended"],
    "defenses": ["d3", "random_head", "finetune"],
    "seeds": [0, 1, 2],
    "relearn": True,
    "device": "cpu",
}
MODELS = (("before", "suspect model"), ("never_poisoned", "never poisoned"))
CONTROLS = ("d3", "finetune")  # of the model that was never poisoned
HEAD = ("case", "model", "ACC %", "ASR %", "5 samples", "20 samples", "50 samples")


def rows(cells: Sequence[Mapping[str, Any]], controls: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of the table, from the cells of ``results.json`` that are done, and the controls by name."""
    done = sorted((cell for cell in cells if cell["state"] == "done"), key=lambda cell: cell["seed"])
    for case in dict.fromkeys(cell["case"] for cell in done):
        own = [cell for cell in done if cell["case"] == case]
        first = own[0]["defense"]
        for name, title in MODELS:  # the same under every defense
            models = [_model(cell, name) for cell in own if cell["defense"] == first]
            yield [case, title, *_numbers(models)]
        for defense in dict.fromkeys(cell["defense"] for cell in own):
            models = [_model(cell, AFTER) for cell in own if cell["defense"] == defense]
            yield [case, f"`{defense}`", *_numbers(models)]
        for defense in CONTROLS:
            models = [each for seed in SPEC["seeds"] if (each := controls.get(f"{case} {defense} {seed}")) is not None]
            if models:
                yield [case, f"never poisoned, then `{defense}`", *_numbers(models)]


def _model(cell: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return cell["metrics"]["relearning"]["models"][name]


def _numbers(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return ACC and ASR at the start, and the steps that each seed needs, by number of poison samples."""
    acc = statistics.median(100 * model["acc"] for model in models)
    asr = [f"{100 * model['paths'][0]['asr'][0]:.0f}" for model in models]
    steps = [", ".join(_reached(model["paths"][row]) for model in models) for row in range(len(models[0]["paths"]))]
    return [f"{acc:.1f}", ", ".join(asr), *steps]


def _reached(path: Mapping[str, Any]) -> str:
    return f"> {STEPS[-1]}" if path["reached"] is None else str(path["reached"])


def run_controls(work: Path) -> dict[str, Any]:
    """Repair models that were never poisoned, let them relearn, and return what is found; kept in ``controls.json``."""
    file = work / "controls.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for source in SPEC["cases"]:
        place = Source.parse(source)
        adapter = get_adapter(place.adapter)(place.options)
        adapter.cache = work / "shared"
        for seed in SPEC["seeds"]:
            case = adapter.read(Path(place.path), seed)
            for defense in CONTROLS:
                name = f"{place.path} {defense} {seed}"
                if name in found:
                    continue
                context = Context(seed=seed, cache=work / "shared")
                model = never_poisoned(case, case.model, Retraining(), context)
                clean = dataclasses.replace(case, model=model)
                outcome = get_defense(defense)().run(clean, Context(seed=seed))
                relearning = measure_relearning(clean, outcome, context)
                assert relearning is not None
                found[name] = dataclasses.asdict(relearning.models[AFTER])
                write_json(file, found)
                print(f"{name}: {[path['reached'] for path in found[name]['paths']]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--write", action="store_true", help="write the table into docs/relearning.md")
    options = parser.parse_args()
    found = run_compare(CompareSpec.build(SPEC), options.work, on_line=lambda line: print(line, flush=True))
    text = markdown(HEAD, rows(found.results["cells"], run_controls(options.work)), words=2)
    print(text)
    if found.failed:
        raise SystemExit(f"{found.failed} runs failed; the same command tries them again")
    if options.write:
        put(text, DOCS / "relearning.md", "relearning.py")


if __name__ == "__main__":
    main()
