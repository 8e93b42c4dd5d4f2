"""Sets that backdoor-toolbox's own script makes and those of the testbed: rates, covers, size of change, triggers."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_checkouts import real_checkout

from elixir_plugin import Case
from elixir_plugin.testbed.base import Backdoor

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
IMAGES, TESTS = 1500, 100
RATES = {"WaNet": (0.1, 0.2), "adaptive_blend": (0.1, 0.1), "TaCT": (0.05, 0.08), "adaptive_patch": (0.1, 0.2)}
SAME = ("WaNet", "adaptive_blend", "TaCT")  # those that are given the script's picture or control points
ROUNDED = 0.51 / 255


def write_batches(folder: Path, *_: Any) -> None:
    """Write smooth images in the format that torchvision reads."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        count = TESTS if name == "test_batch" else IMAGES // 5
        coarse = rng.integers(0, 256, (count, 3, 9, 9))
        fine = np.kron(coarse, np.ones((4, 4)))
        smooth = sum(fine[..., y : y + 32, x : x + 32] for y in range(4) for x in range(4)) / 16
        rows = {"data": smooth.astype(np.uint8).reshape(count, -1), "labels": rng.integers(0, 10, count).tolist()}
        (folder / name).write_bytes(pickle.dumps(rows))


@dataclass(frozen=True)
class Pair:
    theirs: Case
    ours: Case
    clean: Case
    poison: Backdoor
    root: Path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both sets of each attack, and the modules of the benchmark."""
    toolbox, work = real_checkout("backdoor-toolbox"), tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import toolbox_pairs
        import toolbox_sets

        patch.setattr(toolbox_pairs, "write_cifar", write_batches)
        root = toolbox_pairs.prepared(toolbox, work, Path(), IMAGES, TESTS)
        made = {}
        for name, (rate, cover_rate) in RATES.items():
            attack = replace(toolbox_pairs.ATTACKS[name], rate=rate, cover_rate=cover_rate)
            theirs = toolbox_pairs.their_case(root, name, attack)
            poison = toolbox_pairs.our_poison(root, name, attack, work)
            made[name] = Pair(theirs, *toolbox_pairs.our_case(root, poison), poison, root)
        yield made, toolbox_sets
    for name in ("toolbox_pairs", "toolbox_sets"):
        sys.modules.pop(name)


@pytest.mark.toolkit
@pytest.mark.parametrize("name", RATES)
def test_as_many_samples_are_poison_or_cover_with_the_same_labels(pairs: Any, name: str) -> None:
    pair = pairs[0][name]
    for case in (pair.theirs, pair.ours):
        truth, labels, before = case.truth, case.train.labels, pair.clean.train.labels
        rates = tuple(mask.sum() / IMAGES for mask in (truth.poison, truth.cover))
        assert rates == RATES[name]
        assert not (truth.poison & truth.cover).any()
        assert (labels[truth.poison] == 0).all()
        assert np.array_equal(labels[~truth.poison], before[~truth.poison])
        if name == "TaCT":
            assert set(before[truth.poison]) == {1}
            assert set(before[truth.cover]) == {5, 7}
        else:
            assert set(before[truth.cover]) == set(range(10))
            chosen = set(before[truth.poison])
            assert chosen == set(range(1 if case is pair.ours else 0, 10))  # the script also takes the target class


@pytest.mark.toolkit
@pytest.mark.parametrize("name", SAME)
def test_given_the_same_random_numbers_the_images_are_the_same(pairs: Any, name: str) -> None:
    made, benchmark = pairs
    pair = made[name]
    found = benchmark.agreement(name, pair.poison, pair.theirs, pair.clean, pair.root)
    assert found.pop("test") < ROUNDED
    assert found.pop("pieces shown", 8) == 8
    assert (
        set(found)
        == {
            "WaNet": {"control points", "poison", "covers"},
            "TaCT": {"poison", "covers"},
            "adaptive_blend": {"pieces"},
        }[name]
    )
    assert max(found.values()) < 1e-5


@pytest.mark.toolkit
@pytest.mark.parametrize("name", SAME)
def test_the_same_samples_are_changed_as_much(pairs: Any, name: str) -> None:
    made, benchmark = pairs
    pair = made[name]
    before, theirs, ours = benchmark.same_samples(pair.poison, pair.theirs, pair.clean)
    lengths = [benchmark.l2(before, each) for each in (theirs, ours)]
    assert lengths[0].mean() == pytest.approx(lengths[1].mean(), rel=0.02)
    seen = [(np.abs(each - before).max(3) > benchmark.VISIBLE).mean() for each in (theirs, ours)]
    assert seen[0] == pytest.approx(seen[1], rel=0.02)
    assert benchmark.ks_2samp(*lengths, method="asymp").pvalue > 0.01


@pytest.mark.toolkit
def test_noise_of_covers_is_drawn_for_each_image_here_and_once_by_the_script(pairs: Any) -> None:
    made, benchmark = pairs
    pair = made["WaNet"]
    truth, grey = pair.theirs.truth, np.linspace(0, 1, 32, dtype=np.float32)
    ramp = np.broadcast_to(grey[:, None, None], (2, 32, 32, 3))
    ours = pair.poison.cover_trigger(ramp, np.zeros(2, int), np.array([3, 4]))
    assert benchmark.largest(ours[0], ours[1]) > 0.1 / 31
    assert truth.cover.sum() == RATES["WaNet"][1] * IMAGES
