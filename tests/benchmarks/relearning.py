"""How fast a backdoor comes back after a repair, on the embedded digits: the table of ``docs/relearning.md``.

Two poisons, three repairs, three seeds, by ``elixir_plugin``'s own comparison: a killed run goes on with the same
command. The table is printed, and written to the page with ``--write``.

::

    OMP_NUM_THREADS=1 python tests/benchmarks/relearning.py --work FOLDER --write
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "relearning.md"
START, END = "<!-- table of tests/benchmarks/relearning.py -->", "<!-- end of table -->"
SPEC = {
    "cases": ["testbed:badnets", "testbed:blended"],
    "defenses": ["d3", "random_head", "finetune"],
    "seeds": [0, 1, 2],
    "relearn": True,
    "device": "cpu",
}
MODELS = (("before", "suspect model"), ("never_poisoned", "never poisoned"))
HEAD = ("case", "model", "ACC %", "ASR %", "5 samples", "20 samples", "50 samples")


def rows(cells: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield the rows of the table, from the cells of ``results.json`` that are done."""
    done = [cell for cell in cells if cell["state"] == "done"]
    for case in dict.fromkeys(cell["case"] for cell in done):
        own = [cell for cell in done if cell["case"] == case]
        first = own[0]["defense"]
        for name, title in MODELS:  # the same under every defense
            yield [case, title, *_numbers([cell for cell in own if cell["defense"] == first], name)]
        for defense in dict.fromkeys(cell["defense"] for cell in own):
            yield [case, f"`{defense}`", *_numbers([cell for cell in own if cell["defense"] == defense], "after")]


def _numbers(cells: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Return ACC and ASR at the start, and the steps that each seed needs, by number of poison samples."""
    found = [cell["metrics"]["relearning"] for cell in sorted(cells, key=lambda cell: cell["seed"])]
    models = [each["models"][name] for each in found]
    acc = statistics.median(100 * model["acc"] for model in models)
    asr = [f"{100 * model['paths'][0]['asr'][0]:.0f}" for model in models]
    steps = [
        ", ".join(_reached(model["paths"][row], found[0]["steps"][-1]) for model in models)
        for row in range(len(models[0]["paths"]))
    ]
    return [f"{acc:.1f}", ", ".join(asr), *steps]


def _reached(path: Mapping[str, Any], last: int) -> str:
    return f"> {last}" if path["reached"] is None else str(path["reached"])


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = [HEAD, ["---", "---", *["---:"] * (len(HEAD) - 2)], *rows(cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(page: Path, text: str) -> None:
    """Put *text* in place of the table in *page*."""
    before, rest = page.read_text(encoding="utf-8").split(START)
    page.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--write", action="store_true", help="write the table into docs/relearning.md")
    options = parser.parse_args()
    found = run_compare(CompareSpec.build(SPEC), options.work, on_line=lambda line: print(line, flush=True))
    text = table(found.results["cells"])
    print(text)
    if found.failed:
        raise SystemExit(f"{found.failed} runs failed; the same command tries them again")
    if options.write:
        write(PAGE, text)


if __name__ == "__main__":
    main()
