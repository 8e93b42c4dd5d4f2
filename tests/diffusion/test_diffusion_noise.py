"""Noise as a pure function of seed, sample id, round, step and position."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from elixir_plugin.diffusion.noise import normal_noise, philox

SHAPE = (3, 8, 8)
WORD = 0xFFFFFFFF


def noise(seed=0, ids=(0,), round=0, step=1, shape=SHAPE):
    return normal_noise(seed, torch.tensor(list(ids)), round, step, shape, device="cpu")


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_philox_is_its_definition_on_many_counters():
    numbers = torch.arange(1, 33)
    zero = torch.zeros((), dtype=torch.int64)
    ours = torch.stack(philox((numbers, zero, zero, zero), (7, 9)), -1)
    for row, number in zip(ours.tolist(), numbers.tolist(), strict=True):
        first = _philox_in_python((number, 0, 0, 0), (7, 9))
        assert row == list(first)


def _philox_in_python(counter, key):
    """The definition, in whole numbers of any size."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q & WORD, (p >> 32) ^ d ^ m, p & WORD
        k, m = (k + 0x9E3779B9) & WORD, (m + 0xBB67AE85) & WORD
    return a, b, c, d


def test_distribution():
    values = noise(ids=range(2048), shape=(3, 16, 16)).double().numpy().ravel()
    n = values.size
    assert abs(values.mean()) < 5 / n**0.5
    assert abs(values.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(stats.skew(values)) < 5 * (6 / n) ** 0.5
    assert abs(stats.kurtosis(values)) < 5 * (24 / n) ** 0.5
    assert stats.kstest(values, "norm").pvalue > 1e-3


@pytest.mark.parametrize("limit", [2.0, 3.0, 4.0])
def test_tails(limit):
    values = noise(ids=range(4096), shape=(3, 16, 16))
    expected = stats.norm.sf(limit) * values.numel()
    for count in (int((values > limit).sum()), int((values < -limit).sum())):
        assert abs(count - expected) < 5 * expected**0.5
    assert values.isfinite().all() and values.abs().max() < 6.77


def test_neighbours_in_every_coordinate_are_independent():
    base = {"seed": 5, "ids": range(64), "round": 3, "step": 9, "shape": (3, 16, 16)}
    others = [
        {"seed": 6}, {"ids": range(64, 128)}, {"ids": range(1, 65)}, {"round": 4}, {"step": 10},
        {"round": 9, "step": 3}, {"seed": 3, "round": 5},
    ]  # fmt: skip
    fields = [noise(**base), *(noise(**{**base, **other}) for other in others)]
    fields = [field.double().numpy().ravel() for field in fields]
    n = fields[0].size
    for left, right in itertools.combinations(fields, 2):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / n**0.5
        assert abs(np.corrcoef(left**2, right**2)[0, 1]) < 5 / n**0.5


def test_samples_steps_and_rounds_are_independent_series():
    """Means over positions behave like independent draws along ids, steps and rounds."""
    along = {
        "ids": noise(ids=range(4000)),
        "steps": torch.cat([noise(step=step) for step in range(400)]),
        "rounds": torch.cat([noise(round=number) for number in range(400)]),
        "seeds": torch.cat([noise(seed=seed) for seed in range(400)]),
    }
    for name, values in along.items():
        means = values.flatten(1).double().mean(1).numpy() * np.prod(SHAPE) ** 0.5
        assert stats.kstest(means, "norm").pvalue > 1e-3, name
        assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 4 / len(means) ** 0.5, name


def test_positions_are_independent():
    values = noise(ids=range(4000), shape=(1, 4, 4)).flatten(1).double().numpy()
    off = np.corrcoef(values.T) - np.eye(16)
    assert np.abs(off).max() < 5 / 4000**0.5
    squares = np.corrcoef((values**2).T) - np.eye(16)
    assert np.abs(squares).max() < 5 / 4000**0.5


@given(order=st.permutations(range(12)), size=st.integers(1, 12))
def test_batch_composition_does_not_matter(order, size):
    whole = noise(ids=range(12))
    parts = [noise(ids=order[start : start + size]) for start in range(0, 12, size)]
    assert torch.equal(torch.cat(parts), whole[list(order)])


@given(
    seed=st.integers(-(2**70), 2**70),
    sample=st.integers(-(2**63), 2**63 - 1),
    round=st.integers(0, 2**40),
    step=st.integers(0, 4000),
)
def test_any_coordinates_work_and_repeat(seed, sample, round, step):
    first, second = (noise(seed, [sample], round, step) for _ in range(2))
    assert torch.equal(first, second) and first.isfinite().all()
    assert first.dtype == torch.float32 and first.shape == (1, *SHAPE)


def test_ids_differ_in_all_their_bits():
    ids = [0, *(1 << bit for bit in range(63)), -1, -(2**63)]
    values = noise(ids=ids)
    assert len({tuple(row.flatten().tolist()) for row in values}) == len(ids)


@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (1, 1, 1), (3, 32, 31)])
def test_odd_shapes(shape):
    assert noise(ids=[4, 2], shape=shape).shape == (2, *shape)
    flat = noise(ids=[4, 2], shape=(int(np.prod(shape)),))
    assert torch.equal(noise(ids=[4, 2], shape=shape).flatten(1), flat)


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    noise()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
def test_cuda_gives_the_same_noise():
    ids = torch.arange(32)
    there = normal_noise(1, ids, 0, 3, SHAPE, device="cuda").cpu()
    assert torch.allclose(there, normal_noise(1, ids, 0, 3, SHAPE, device="cpu"), atol=1e-6, rtol=0)
