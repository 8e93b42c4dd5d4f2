"""Every kind of hostile data file, read in a process with little memory, gives one clear error in little time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parents[1] / "hostile" / "data_child.py"
MEMORY = 2**31  # bytes beyond what torch takes by itself
SECONDS = 20  # of the processor; the slowest kinds take under 3 on a machine with nothing else to do
HUGE = "torch: an image of 60,000 x 60,000 pixels in no bytes"  # refused when its pixels are asked for
READABLE = {"safetensors: a type of 4 bits", HUGE, f"old {HUGE}"}  # of no use, but what they say


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory")
@pytest.mark.parametrize(
    ("pattern", "least"), [("pickle:*", 55), ("torch:*", 90), ("old torch:*", 55), ("npz:*", 30), ("safetensors:*", 24)]
)
def test_small_files_cost_little(tmp_path: Path, pattern: str, least: int) -> None:
    command = [sys.executable, "-W", "ignore", str(CHILD), str(tmp_path), str(MEMORY), pattern]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.stderr[-2000:]}\nafter {rows[-1:]}"
    assert len({row["kind"] for row in rows}) >= least
    bad = [row for row in rows if row["result"].startswith("TRACEBACK") or not row["unchanged"]]
    bad += [row for row in rows if row["result"] == "read" and row["kind"] not in READABLE]
    assert bad == []
    assert [row for row in rows if row["seconds"] > SECONDS] == []
    for row in rows:
        assert row["result"] == "read" or str(tmp_path) in row["result"], row
        assert len(row["result"]) < 1500 and row["result"].replace("\n", "").isprintable(), row
    assert list(tmp_path.iterdir()) == []
