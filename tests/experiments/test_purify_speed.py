"""``benchmarks/purify_speed.py`` says whether bf16 means anything on the machine it runs on."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_native_bf16_is_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    speed = importlib.import_module("purify_speed")
    cpu = speed.torch.device("cpu")
    for flags, native in (("fpu avx2 avx512f", False), ("avx512f avx512_bf16", True), ("fp asimd bf16", True)):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
        assert speed.native_bf16(cpu, tmp_path / "cpuinfo") is native
    assert speed.native_bf16(cpu, tmp_path / "nowhere") is None
    assert "no bf16 arithmetic" in speed.remark_on_bf16(cpu, "bf16", False)
    assert "--precision bf16" in speed.remark_on_bf16(cpu, "float32", True)
    assert speed.remark_on_bf16(cpu, "float32", False) is None
