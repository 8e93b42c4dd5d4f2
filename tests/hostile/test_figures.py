"""The command behind the figures of SECURITY.md: it counts, goes on where it stopped, and writes between its marks."""

from __future__ import annotations

import re
from pathlib import Path

import figures
import pytest
from figures import BEGIN, END, SECURITY, Budget, Figures, block, write


def test_what_is_done_is_kept_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    Figures(file).add("mutations", "a", (500, 499, ["a 7: traceback"]), done=False)
    Figures(file).add("mutations", "a", (500, 500, []), done=True)
    found = Figures(file)
    assert found.item("mutations", "a") == {"tried": 1000, "passed": 999, "faults": ["a 7: traceback"], "done": True}
    assert list(found.rows()) == [("mutations", 1000, 999)] and found.failed == 1
    assert found.lines()[-1] == "| mutated files of 1 readers | 1,000 | 999 |"


def test_the_table_goes_between_the_marks(tmp_path: Path) -> None:
    file = tmp_path / "SECURITY.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    found = Figures(tmp_path / "state.json")
    found.add("full disks", "run of d3", (3, 3, []), done=True)
    for _ in range(2):
        write(block(found, "--budget small"), file)
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| what | tried | passed |") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and text.count("| 3 | 3 |") == 1


def test_a_small_budget_of_one_part_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: each for name, each in figures.targets(figures.Hostile(tmp_path)).items() if name == "io.read_json"}
    monkeypatch.setattr(figures, "targets", lambda hostile: chosen)
    monkeypatch.setattr(figures, "CHUNK", 3)
    found = Figures(tmp_path / "state.json")
    for count in (4, 7):
        figures.mutations(found, Budget(True, count, 0, 0), tmp_path)
        assert list(found.rows()) == [("mutations", count, count)]


def test_the_figures_that_are_stated_have_no_failures() -> None:
    stated = SECURITY.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = re.findall(r"^\| .+ \| ([\d,]+) \| ([\d,]+) \|$", stated, flags=re.MULTILINE)
    assert rows and all(tried == passed for tried, passed in rows)
