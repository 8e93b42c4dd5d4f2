"""Purification of batches and of whole sets: what depends on what, what is refused, what survives."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion import batches
from elixir_plugin.diffusion import purify as purifying
from elixir_plugin.diffusion.denoisers.base import Denoiser, Prediction
from elixir_plugin.diffusion.denoisers.gaussian import GaussianDenoiser, OracleDenoiser
from elixir_plugin.diffusion.plan import Purification, plan
from elixir_plugin.diffusion.purify import purify, purify_batch
from elixir_plugin.diffusion.schedule import NoiseLevel, Schedule
from elixir_plugin.errors import InputError, RunError, SettingsError

CHAIN = Schedule("cosine", 1000)
LEVEL = NoiseLevel(steps=100, of=4000)  # t* = 25 in CHAIN
SHAPE = (8, 8, 3)


class NetDenoiser(Denoiser):
    """A small convolutional network; counts what it is asked."""

    def __init__(self, channels=3, stride=1, image_size=None, trained_steps=1000, variance="fixed_large"):
        self.schedule, self.channels, self.stride, self.image_size = CHAIN, channels, stride, image_size
        self.trained_steps, self.variance, self.device = trained_steps, variance, torch.device("cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Conv2d(channels, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Dropout(0.5)
            self.network = nn.Sequential(*layers, nn.Conv2d(8, channels, 3, padding=1))
        self.asked = []

    def predict(self, states, indices):
        self.asked += [(states.shape, states.dtype, index) for index in indices.tolist()]
        assert states.shape[2] % self.stride == 0 and states.shape[3] % self.stride == 0
        return Prediction(self.network(states).float())

    def to(self, device):
        self.network.to(device)
        return self

    def fingerprint(self):
        return "0123456789ab"


def settings(**values):
    return Purification.build({"level": LEVEL.dump(), "steps": 4, **values})


def pictures(count, shape=SHAPE, seed=0, dtype=np.uint8):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    pixels = pixels if dtype == np.uint8 else (pixels / np.float32(255)).astype(np.float32)
    return ImageSet(pixels, np.arange(count) % 2, 2)


def batch(count, shape=SHAPE, seed=0):
    return torch.rand((count, shape[2], *shape[:2]), generator=torch.Generator().manual_seed(seed))


def run(denoiser, chosen, images, ids=None, seed=1, **options):
    shape = (*images.shape[2:], images.shape[1])
    ids = torch.arange(len(images)) if ids is None else torch.tensor(ids)
    return purify_batch(denoiser, plan(denoiser, chosen, shape), images, ids, seed, **options)


# --- what a plan says


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(("steps", "visited"), [(None, 25), (5, 5), (1, 1)])
def test_calls_per_image(steps, visited, rounds):
    denoiser = NetDenoiser()
    chosen = settings(steps=steps, rounds=rounds)
    planned = plan(denoiser, chosen, SHAPE)
    run(denoiser, chosen, batch(3))
    indices = [index for _, _, index in denoiser.asked[::3]]
    assert len(denoiser.asked) == 3 * planned.nfe and planned.nfe == visited * rounds
    assert indices == list(planned.indices) * rounds
    assert indices[0] == 24 and (indices[-1] == 0 or visited == 1)
    assert planned.t_star == 25 and planned.sigma * 255 == pytest.approx(6.37, abs=0.01)


def test_grids():
    denoiser = NetDenoiser()
    assert plan(denoiser, settings(steps=3, dense_below=4), SHAPE).indices == (24, 12, 3, 2, 1, 0)
    assert plan(denoiser, settings(steps=None, grid=(24, 7, 0)), SHAPE).indices == (24, 7, 0)
    for grid in ((23, 7, 0), (24, 7), (24, 7, 7, 0), (24, 30, 0), (), (25, 0)):
        with pytest.raises(SettingsError):
            plan(denoiser, settings(steps=None, grid=grid), SHAPE)
    for bad in ({"grid": (24, 0)}, {"steps": None, "grid": (24, 0), "dense_below": 2}):
        with pytest.raises(SettingsError, match="settings refused"):
            settings(**bad)


@pytest.mark.parametrize(
    ("chosen", "shape", "error", "words"),
    [
        ({}, (8, 8, 1), InputError, "number of channels"),
        ({"steps": 26}, SHAPE, SettingsError, "number of steps"),
        ({"level": {"steps": 60, "of": 1000}, "steps": None}, SHAPE, SettingsError, "trained for"),
        ({"level": {"sigma": 1e6}}, SHAPE, SettingsError, "outside the chain"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(chosen, shape, error, words):
    denoiser = NetDenoiser(trained_steps=50)
    with pytest.raises(error, match=words):
        plan(denoiser, settings(**chosen), shape)
    assert not denoiser.asked


def test_the_highest_trained_level_is_allowed():
    assert plan(NetDenoiser(trained_steps=25), settings(), SHAPE).t_star == 25
    with pytest.raises(SettingsError, match="trained for"):
        plan(NetDenoiser(trained_steps=24), settings(), SHAPE)


@pytest.mark.parametrize(
    ("instructions", "precision"),
    [({"avx512_bf16"}, "bf16"), ({"amx_tile"}, "bf16"), ({"avx512_bf16", "amx_tile"}, "bf16"), (set(), "float32")],
)
def test_auto_precision_is_bf16_on_cpus_that_have_it(monkeypatch, instructions, precision):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in instructions, raising=False)
    assert plan(NetDenoiser(), settings(), SHAPE).precision == precision
    for given in ("float32", "bf16"):  # as asked for
        assert plan(NetDenoiser(), settings(precision=given), SHAPE).precision == given
    assert plan(GaussianDenoiser(CHAIN, 0.0, 1.0), settings(), SHAPE).precision == "float32"  # no network


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bf16")])
def test_auto_precision_is_bf16_on_gpus_that_have_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    denoiser = NetDenoiser()
    denoiser.device = torch.device("cuda", 0)
    assert plan(denoiser, settings(), SHAPE).precision == precision
    assert plan(denoiser, settings(precision="bf16"), SHAPE).precision == "bf16"  # as asked for
    formula = GaussianDenoiser(CHAIN, 0.0, 1.0)
    formula.device = torch.device("cuda", 0)
    assert plan(formula, settings(), SHAPE).precision == "float32"


def test_facts_leave_out_the_batch_size():
    denoiser = NetDenoiser()
    base = {"precision": "float32"}  # auto is bf16 on CPUs that have it
    same = [plan(denoiser, settings(**base, batch_size=size), SHAPE).facts() for size in (1, 7, None)]
    assert same[0] == same[1] == same[2]
    other = [{"steps": 5}, {"rounds": 2}, {"clip": False}, {"precision": "bf16"}, {"sampler": "ddim"}]
    assert all(plan(denoiser, settings(**{**base, **each}), SHAPE).facts() != same[0] for each in other)
    json.dumps(same[0])


# --- what a result depends on


def test_equal_seeds_equal_results():
    first, second, other = (run(NetDenoiser(), settings(), batch(4), seed=seed).images for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert (first - other).abs().max() > 1e-3


@pytest.mark.parametrize("size", [1, 3, 7, 64])
@pytest.mark.parametrize("make", [NetDenoiser, lambda: GaussianDenoiser(CHAIN, 0.0, 0.3, head=0.5)])
def test_the_batch_size_does_not_matter(size, make):
    whole = run(make(), settings(batch_size=11), batch(11)).images
    assert torch.allclose(run(make(), settings(batch_size=size), batch(11)).images, whole, atol=1e-5, rtol=0)


def test_position_does_not_matter_but_the_id_does():
    images, ids = batch(6), [5, 9, -3, 2**40, 0, 1]
    whole = run(NetDenoiser(), settings(), images, ids).images
    order = [3, 0, 5, 2]
    part = run(NetDenoiser(), settings(), images[order], [ids[i] for i in order]).images
    assert torch.allclose(part, whole[order], atol=1e-5, rtol=0)
    twins = run(NetDenoiser(), settings(), images[[0, 0]], [5, 6]).images
    assert (twins[0] - twins[1]).abs().max() > 1e-3


def test_output_is_in_range_and_input_untouched():
    images = batch(4)
    before = images.clone()
    out = run(NetDenoiser(), settings(clip=False), images).images
    assert torch.equal(images, before)
    assert out.shape == images.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1 and not out.is_inference()


def test_zero_level_is_the_identity():
    denoiser, images = NetDenoiser(), batch(3)
    chosen = settings(level={"sigma": 0.0}, steps=None)
    assert torch.equal(run(denoiser, chosen, images).images, images)
    suspects = pictures(3)
    assert np.array_equal(purify(denoiser, chosen, suspects, Context(), seed_name="x").images, suspects.images)
    assert not denoiser.asked


def test_the_network_is_left_as_it_was():
    denoiser = NetDenoiser()
    denoiser.network.train()
    before = {name: value.clone() for name, value in denoiser.network.state_dict().items()}
    first = run(denoiser, settings(), batch(2)).images
    assert denoiser.network.training and all(part.training for part in denoiser.network)
    after = denoiser.network.state_dict()
    assert all(torch.equal(before[name], after[name]) and after[name].is_contiguous() for name in before)
    assert torch.equal(first, run(denoiser, settings(), batch(2)).images)  # dropout was off


def test_memory_layout_and_precision_change_little():
    exact = {"precision": "float32"}
    plain = run(NetDenoiser(), settings(**exact, channels_last=False), batch(4)).images
    assert torch.allclose(run(NetDenoiser(), settings(**exact), batch(4)).images, plain, atol=1e-5)
    denoiser = NetDenoiser()
    half = run(denoiser, settings(precision="bf16"), batch(4)).images
    assert 0 < (half - plain).abs().max() < 4 / 255
    assert {dtype for _, dtype, _ in denoiser.asked} == {torch.float32}


@pytest.mark.slow
def test_a_compiled_network_gives_the_same(recwarn):
    plain = run(NetDenoiser(), settings(batch_size=4), batch(6)).images
    compiled = run(NetDenoiser(), settings(batch_size=4, compile=True), batch(6)).images
    assert torch.allclose(compiled, plain, atol=1e-5)


def test_a_compiled_network_sees_batches_of_one_size(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    plain = run(NetDenoiser(), settings(batch_size=4), batch(6)).images
    denoiser, resolved = NetDenoiser(), plan(NetDenoiser(), settings(batch_size=4, compile=True), SHAPE)
    for part in (slice(0, 6), slice(0, 1)):  # the plan remembers the size for the next call
        found = purify_batch(denoiser, resolved, batch(6)[part], torch.arange(6)[part], 1)
        assert torch.equal(found.images, plain[part])
    assert {shape[0] for shape, _, _ in denoiser.asked} == {4}


# --- rounds and kept states


def test_rounds_are_chained_with_fresh_noise():
    denoiser = GaussianDenoiser(CHAIN, 0.2, 0.05, head=-1.0)
    whole = run(denoiser, settings(rounds=3), batch(2), keep=1)
    assert whole.kept.shape == (2, 3, 1, 3, 8, 8)
    assert torch.equal(whole.kept[:, 2, 0], whole.images)
    assert torch.equal(run(denoiser, settings(rounds=2), batch(2)).images, whole.kept[:, 1, 0])
    # every round multiplies the distance to the mean by κ = s²/(s² + σ²), once noise is averaged away
    flat = torch.full((64, 3, 8, 8), 0.9)
    distances = (run(denoiser, settings(rounds=3), flat, keep=1).kept[:, :, 0] - 0.6).mean((0, 2, 3, 4))
    kappa = 0.05**2 / (0.05**2 + (2 * CHAIN.noise_std(25)) ** 2)
    assert torch.allclose(distances, 0.3 * kappa ** torch.arange(1.0, 4.0), atol=2e-3)


def test_kept_states_are_the_last_ones_in_order():
    denoiser = NetDenoiser()
    all_kept = run(denoiser, settings(steps=6), batch(3), keep=6)
    some = run(denoiser, settings(steps=6, batch_size=2), batch(3), keep=2)
    assert torch.allclose(some.kept, all_kept.kept[:, :, -2:], atol=1e-5)
    assert torch.equal(all_kept.kept[:, 0, -1], all_kept.images)
    assert some.kept.min() >= 0 and some.kept.max() <= 1
    for count in (7, -1):
        with pytest.raises(SettingsError, match="keep"):
            run(denoiser, settings(steps=6), batch(3), keep=count)


def test_kept_states_carry_noise_and_kept_predictions_do_not():
    clean = batch(4)
    oracle = OracleDenoiser(CHAIN, clean)
    states = run(oracle, settings(steps=5), clean, keep=5).kept[:, 0]
    images = run(oracle, settings(steps=5), clean, keep=5, keep_predictions=True).kept[:, 0]
    assert torch.allclose(images, clean[:, None].expand_as(images), atol=1e-4)
    rest = (states - clean[:, None]).square().mean((0, 2, 3, 4)).sqrt()
    assert (rest[:-1] > 1e-3).all() and (rest.diff() < 0).all() and rest[-1] < 1e-4


# --- shapes


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 14, 3), (3, 21, 1), (1, 1, 3)])
def test_sides_that_do_not_fit_the_stride_are_padded_and_cropped(shape):
    denoiser = NetDenoiser(channels=shape[2], stride=8, image_size=8)
    images = batch(2, shape)
    planned = plan(denoiser, settings(), shape)
    out = run(denoiser, settings(), images).images
    assert out.shape == images.shape
    assert all(each[2] % 8 == 0 and each[3] % 8 == 0 for each, _, _ in denoiser.asked)
    assert any("padded" in note for note in planned.notes) == (shape[:2] != (8, 8))
    assert any("trained on 8 px" in note for note in planned.notes) == (shape[:2] != (8, 8))


def test_padding_does_not_disturb_what_is_exact():
    denoiser = GaussianDenoiser(CHAIN, 0.0, 0.0)
    denoiser.stride = 4
    assert torch.allclose(run(denoiser, settings(), batch(2, (5, 7, 3))).images, torch.tensor(0.5), atol=1e-5)


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        (torch.rand(2, 8, 8, 3), [0, 1]),
        (torch.rand(2, 3, 8, 9), [0, 1]),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 1]),
        (torch.rand(2, 3, 8, 8), [0]),
        (torch.rand(2, 3, 8, 8), [0.0, 1.0]),
        (torch.rand(2, 3, 8, 8) + 0.5, [0, 1]),
        (torch.rand(2, 3, 8, 8) - 0.5, [0, 1]),
        (torch.full((2, 3, 8, 8), torch.nan), [0, 1]),
    ],
)
def test_bad_batches_are_refused(images, ids):
    denoiser = NetDenoiser()
    with pytest.raises(InputError):
        purify_batch(denoiser, plan(denoiser, settings(), SHAPE), images, torch.tensor(ids), 0)


def test_an_empty_batch():
    assert run(NetDenoiser(), settings(), batch(0)).images.shape == (0, 3, 8, 8)


# --- memory


class Hungry(NetDenoiser):
    """Runs out of memory above *limit* images."""

    def __init__(self, limit, error):
        super().__init__()
        self.limit, self.error = limit, error

    def predict(self, states, indices):
        if len(states) > self.limit:
            raise self.error
        return super().predict(states, indices)


OUT = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: str(error)[:20])
def test_the_batch_is_halved_until_it_fits(error):
    hungry = Hungry(3, error)
    out = run(hungry, settings(batch_size=11), batch(11), keep=2)
    expected = run(NetDenoiser(), settings(), batch(11), keep=2)
    assert torch.allclose(out.images, expected.images, atol=1e-5) and torch.allclose(out.kept, expected.kept, atol=1e-5)
    assert max(shape[0] for shape, _, _ in hungry.asked) == 2  # 11, 5, 2


def test_out_of_memory_with_one_image_is_an_error():
    with pytest.raises(RunError, match="single image"):
        run(Hungry(0, MemoryError()), settings(), batch(2))


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(Hungry(0, RuntimeError("shape mismatch")), settings(), batch(2))


def test_a_smaller_batch_is_remembered():
    hungry, chosen = Hungry(2, MemoryError()), settings(batch_size=8)
    planned = plan(hungry, chosen, SHAPE)
    for _ in range(2):
        purify_batch(hungry, planned, batch(8), torch.arange(8), 0)
    assert planned.batch.size == 2


@pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), 32), ((1, 16, 16), 128), ((3, 224, 224), 1)])
def test_batch_size_on_a_cpu_depends_on_the_image_size_alone(shape, size):
    assert batches.BatchSize().find(NetDenoiser(), shape, bf16=False) == size
    assert batches.BatchSize(7).find(NetDenoiser(), shape, bf16=False) == 7


@pytest.mark.gpu
def test_batch_size_on_cuda_fits_into_memory():
    denoiser = NetDenoiser().to("cuda")
    denoiser.device = torch.device("cuda")
    assert 1 <= batches.BatchSize().find(denoiser, (3, 32, 32), bf16=True) <= 512


@pytest.mark.parametrize(
    ("place", "side", "size"),
    [
        *(("cpu", 32, 64), ("cpu", 1024, 64), ("cuda", 32, 512), ("cuda", 64, 512), ("cuda", 65, 256)),
        *(("cuda", 224, 32), ("cuda", 1024, 2), ("cuda", 4096, 1)),
    ],
)
def test_large_images_come_in_small_chunks(place, side, size, tmp_path):
    denoiser = NetDenoiser()
    denoiser.device = torch.device(place)
    assert purifying._chunk_size(denoiser, (side, side, 3), tmp_path) == size


# --- broken networks


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("clip", [True, False])
def test_numbers_that_are_not_finite_are_an_error(value, clip):
    class Broken(NetDenoiser):
        def predict(self, states, indices):
            eps = torch.zeros_like(states)
            if indices[0] == 8:
                eps[1, 0, 2, 2] = value
            return Prediction(eps)

    with pytest.raises(RunError, match="not finite") as caught:
        run(Broken(), settings(clip=clip), batch(3), ids=[70, 71, 72])
    assert "71" in str(caught.value) and "72" not in str(caught.value)


# --- whole sets


def test_all_grey_levels_survive_the_way_to_model_scale_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = ImageSet(levels, [0], 1)
    oracle = OracleDenoiser(CHAIN, torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255)
    out = purify(oracle, settings(), images, Context(), seed_name="x")
    assert out.images.dtype == np.uint8 and np.array_equal(out.images, levels)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("stored", [True, False])
def test_a_set_keeps_order_labels_ids_and_type(dtype, stored, tmp_path):
    images = pictures(150, dtype=dtype).subset(np.random.default_rng(0).permutation(150))
    before = np.array(images.images)
    denoiser = NetDenoiser()
    store = tmp_path / "store" if stored else None
    out = purify(denoiser, settings(), images, Context(), seed_name="x", store=store)
    assert len(out) == 150 and out.images.dtype == dtype and out.image_shape == SHAPE
    assert np.array_equal(out.labels, images.labels) and np.array_equal(out.ids, images.ids)
    assert np.array_equal(images.images, before)
    scale = 255 if dtype == np.uint8 else 1
    alone = torch.from_numpy(before[70:71]).permute(0, 3, 1, 2).float() / scale
    one = run(denoiser, settings(), alone, ids=[int(images.ids[70])], seed=Context().derive_seed("x")).images
    expected = one[0].permute(1, 2, 0).numpy() * scale
    assert np.abs(out.images[70] - expected).max() < (0.51 if dtype == np.uint8 else 1e-5)


def test_with_and_without_a_store_the_same(tmp_path):
    images = pictures(100)
    kept = purify(NetDenoiser(), settings(), images, Context(), seed_name="x", store=tmp_path / "s")
    plain = purify(NetDenoiser(), settings(), images, Context(), seed_name="x")
    assert np.array_equal(kept.images, plain.images)
    assert not np.array_equal(purify(NetDenoiser(), settings(), images, Context(), seed_name="y").images, plain.images)
    assert not np.array_equal(
        purify(NetDenoiser(), settings(), images, Context(seed=1), seed_name="x").images, plain.images
    )


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_sizes_within_one_grey_level(size):
    images = pictures(70)
    one, other = (
        purify(NetDenoiser(), settings(batch_size=each), images, Context(), seed_name="x").images.astype(int)
        for each in (size, 32)
    )
    assert np.abs(one - other).max() <= 1


def test_a_stopped_run_continues_to_the_same_bytes(tmp_path):
    images = pictures(200)
    whole = purify(NetDenoiser(), settings(), images, Context(), seed_name="x", store=tmp_path / "whole")

    class Stopping(NetDenoiser):
        left = 10

        def predict(self, states, indices):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().predict(states, indices)

    with pytest.raises(KeyboardInterrupt):
        purify(Stopping(), settings(), images, Context(), seed_name="x", store=tmp_path / "part")
    rest = NetDenoiser()
    out = purify(rest, settings(), images, Context(), seed_name="x", store=tmp_path / "part")
    assert np.array_equal(out.images, whole.images)
    assert 0 < len(rest.asked) < 200 * 4
    again = NetDenoiser()
    purify(again, settings(batch_size=3), images, Context(), seed_name="x", store=tmp_path / "part")
    assert not again.asked  # all chunks were there, and the batch size is no reason to start over


@pytest.mark.parametrize("change", ["settings", "seed", "pixels", "ids", "denoiser"])
def test_a_store_of_other_settings_is_refused(change, tmp_path):
    def attempt(chosen=None, context=None, images=None, denoiser=None):
        return purify(
            denoiser or NetDenoiser(), chosen or settings(), images or pictures(5), context or Context(),
            seed_name="x", store=tmp_path,
        )  # fmt: skip

    attempt()
    same = pictures(5)
    other = {
        "settings": {"chosen": settings(steps=5)},
        "seed": {"context": Context(seed=1)},
        "pixels": {"images": pictures(5, seed=1)},
        "ids": {"images": ImageSet(same.images, same.labels, 2, ids=[1, 0, 2, 3, 4])},
        "denoiser": {"denoiser": GaussianDenoiser(CHAIN, 0.0, 1.0)},
    }
    with pytest.raises(RunError, match="other settings"):
        attempt(**other[change])


def test_notes_reach_the_reader():
    context = Context()
    purify(NetDenoiser(stride=8), settings(), pictures(2, (9, 9, 3)), context, seed_name="x")
    assert any("padded" in note for note in context.notes)


def test_slow_bf16_is_announced(monkeypatch):
    chosen = settings(precision="bf16")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert any("no bf16" in note for note in plan(NetDenoiser(), chosen, SHAPE).notes)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert not plan(NetDenoiser(), chosen, SHAPE).notes


def test_an_empty_set(tmp_path):
    assert len(purify(NetDenoiser(), settings(), pictures(0), Context(), seed_name="x", store=tmp_path / "s")) == 0
