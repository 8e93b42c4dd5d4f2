"""What a result depends on beside input, settings and seed, and what is independent of the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from elixir_plugin.core.mirror_evidence import probe_scores
from elixir_plugin.defenses.confusion_training.scoring import log_likelihood_ratio
from elixir_plugin.io.environment import PACKAGES, differences, environment, threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def test_all_that_changes_numbers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OMP_SCHEDULE", "static"), ("MKL_CBWR", "AVX2"), ("ONEDNN_MAX_CPU_ISA", "AVX2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ELIXIR_SECRET", "hunter2")
    with threads(3):
        facts = environment(CPU)
    assert {"device", "python", *PACKAGES} < set(facts)
    assert facts["threads"] == "3" and str(facts["device"]).endswith(", 3 threads)")
    assert facts["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert facts["torch"] == torch.__version__.partition("+")[0] or facts["torch"] == torch.__version__
    for said in ("OMP_SCHEDULE=static", "MKL_CBWR=AVX2", "ONEDNN_MAX_CPU_ISA=AVX2"):
        assert said in str(facts["variables"])
    assert "hunter2" not in str(facts) and all(value is None or isinstance(value, str) for value in facts.values())
    assert "deterministic algorithms off" in str(facts["switches"])


def test_the_processor_that_numpy_computes_for_is_named() -> None:
    known = [each for each in threadpool_info() if each["user_api"] == "blas" and "architecture" in each]
    if not known:
        pytest.skip("this numpy does not say")
    assert any(each["architecture"] in str(environment(CPU)["blas"]) for each in known)


BEFORE = {
    "device": "cpu (x86_64, 2 threads)",
    "torch": "2.6.0",
    "threads": "2",
    "instructions": "AVX2",
    "blas": "openblas 0.3.31 Haswell",
    "variables": "OMP_NUM_THREADS=2",
    "transformers": None,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": "1", "device": "cpu (x86_64, 1 thread)"}, ["threads 2 → 1"]),
        ({"torch": "2.7.0"}, ["torch 2.6.0 → 2.7.0"]),
        ({"instructions": "AVX512"}, ["instructions AVX2 → AVX512"]),
        ({"blas": "openblas 0.3.31 SkylakeX"}, ["blas openblas 0.3.31 Haswell → openblas 0.3.31 SkylakeX"]),
        ({"transformers": "5.0"}, ["transformers not installed → 5.0"]),
        ({"device": "NVIDIA H200"}, ["device cpu (x86_64) → NVIDIA H200"]),
        ({"variables": "MKL_CBWR=AVX2, OMP_NUM_THREADS=2"}, ["variables none → MKL_CBWR=AVX2"]),
        ({"variables": "OMP_NUM_THREADS=4"}, []),  # the number of threads stands by itself
        ({"variables": "none"}, []),
        ({"pydantic": "2.9"}, []),
        ({}, []),
    ],
)
def test_what_has_changed_is_said_with_both_values(change: dict[str, str], said: list[str]) -> None:
    assert differences({**BEFORE, "pydantic": "2.8"}, {**BEFORE, "pydantic": "2.8", **change}) == said


def test_an_older_or_damaged_record_is_no_change() -> None:
    assert differences({}, environment(CPU)) == []
    assert differences({"threads": ["x"] * 1000}, {"threads": "1"})[0].endswith("→ 1")


def test_the_number_of_threads_comes_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 2):
        assert torch.get_num_threads() == before + 2
        raise KeyError
    with threads(None):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("samples", [40, 300])
def test_numpy_answers_the_same_under_any_number_of_threads(samples: int) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((samples, 192)), np.arange(samples) % 4
    isolated = np.arange(samples) % 5 == 0
    found = []
    for count in (1, 2, 3, 4):
        with threadpool_limits(count):
            scores = probe_scores(features, features[:, ::-1].copy(), labels, 4, 20)
            found.append((log_likelihood_ratio(features, isolated), scores[0].tobytes(), scores[1].tobytes()))
    assert found[1:] == found[:1] * 3
