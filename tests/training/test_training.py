"""The training loop: what it draws, what it feeds, what it measures, what it leaves alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from elixir_plugin.core.augmentation import Augmentation, augment, draw_augmentation
from elixir_plugin.core.classifier.classifier import Classifier, to_batch
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.errors import RunError
from elixir_plugin.training import batches as batch_module
from elixir_plugin.training import loop as training
from elixir_plugin.training.batches import Batch, Samples, ShuffledBatches
from elixir_plugin.training.fit import untrained
from elixir_plugin.training.loop import Losses, Recipe, cross_entropy, make_optimizer, make_schedule, train

CPU = torch.device("cpu")
ALL = Augmentation(crop=2, flip=True, rotation=20)


def image_set(n: int = 12, size: int = 6, dtype: Any = np.uint8, classes: int = 3) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    images = pixels if dtype == np.uint8 else (pixels / np.float32(255)).astype(np.float32)
    return ImageSet(images, np.arange(n) % classes, classes)


def batches(
    images: ImageSet, batch_size: int = 4, augmentation: Augmentation = ALL, seed: int = 0, name: str = "train"
) -> ShuffledBatches:
    return ShuffledBatches(Samples(images, CPU), batch_size, Context(seed), augmentation, name)


def network(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4, 3),
        )


def fit(
    model: nn.Module, source: ShuffledBatches | None = None, *, seed: int = 0, **options: Any
) -> dict[str, list[float]]:
    """Train with a small recipe; options of the recipe and of :func:`train` may be mixed."""
    recipe = {name: options.pop(name) for name in list(options) if name in Recipe.model_fields}
    source = source or batches(image_set(), seed=seed)
    return train(model, source, Recipe(**{"epochs": 2, "lr": 0.05, **recipe}), Context(seed), **options)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(value, state(second)[name]) for name, value in state(first).items())


# augmentation


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3])),
    crop=st.integers(0, 3),
    flip=st.booleans(),
    floating=st.booleans(),
    seed=st.integers(0, 99),
)
def test_crop_and_flip_equal_an_image_by_image_reference(
    shape: tuple[int, int, int, int], crop: int, flip: bool, floating: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.random(shape, np.float32) if floating else rng.integers(0, 256, shape, np.uint8)
    top, left = rng.integers(0, 2 * crop + 1, (2, shape[0]))
    mirror = rng.random(shape[0]) < 0.5
    draws = {name: torch.from_numpy(draw) for name, draw in (("top", top), ("left", left), ("mirror", mirror))}
    expected = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
        expected[i] = padded[top[i] : top[i] + shape[1], left[i] : left[i] + shape[2]]
        if flip and mirror[i]:
            expected[i] = expected[i][:, ::-1]
    result = augment(torch.from_numpy(pixels), Augmentation(crop=crop, flip=flip), draws).numpy()
    assert result.dtype == pixels.dtype and np.array_equal(result, expected)


def rotated(pixels: np.ndarray[Any, Any], degrees: float) -> np.ndarray[Any, Any]:
    draws = {"angle": torch.full((len(pixels),), float(degrees))}
    return augment(torch.from_numpy(pixels), Augmentation(rotation=180), draws).numpy()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_exact(turns: int) -> None:
    pixels = image_set(3).read(slice(None))
    assert np.array_equal(rotated(pixels, 90 * turns), np.rot90(pixels, turns, axes=(1, 2)))


@pytest.mark.parametrize("shape", [(9, 9), (6, 11)])
def test_rotation_turns_by_the_angle_whatever_the_aspect(shape: tuple[int, int]) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    pixels = np.random.default_rng(0).random((2, *shape, 3), np.float32)
    expected = rotate(torch.from_numpy(pixels).permute(0, 3, 1, 2), 25, InterpolationMode.BILINEAR)
    assert np.allclose(rotated(pixels, 25), expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)


@given(degrees=st.floats(-180, 180))
def test_rotation_keeps_type_and_range(degrees: float) -> None:
    for dtype in (np.uint8, np.float32):
        pixels = image_set(2, dtype=dtype).read(slice(None))
        turned = rotated(pixels, degrees)
        assert turned.dtype == dtype and turned.min() >= 0 and turned.max() <= pixels.max()


def test_draws_cover_their_range() -> None:
    draws = draw_augmentation(ALL, 2000, torch.Generator().manual_seed(0), CPU)
    assert set(draws["top"].tolist()) == set(draws["left"].tolist()) == set(range(5))
    assert 0.45 < draws["mirror"].float().mean() < 0.55
    assert -20 <= draws["angle"].min() < -19 and 19 < draws["angle"].max() <= 20


# order and draws


def fed(source: ShuffledBatches, epoch: int) -> tuple[list[int], Tensor]:
    """Return the order of an epoch, and its images in the order of the set."""
    parts = list(source.epoch(epoch))
    rows = torch.cat([part.rows for part in parts])
    return rows.tolist(), torch.cat([part.images for part in parts])[rows.argsort()]


@given(size=st.integers(1, 20), epoch=st.integers(0, 3))
def test_order_and_augmentation_do_not_depend_on_the_batch_size(size: int, epoch: int) -> None:
    order, images = fed(batches(image_set(), size), epoch)
    reference, expected = fed(batches(image_set(), 12), epoch)
    assert order == reference and torch.equal(images, expected)


@given(n=st.integers(1, 30), size=st.integers(1, 12))
def test_every_sample_comes_once_per_epoch(n: int, size: int) -> None:
    source = batches(image_set(n, 2), size, Augmentation())
    parts = [part.rows.tolist() for part in source.epoch(0)]
    assert sorted(row for part in parts for row in part) == list(range(n))
    assert len(parts) == source.steps


@given(n=st.integers(2, 30), size=st.integers(2, 12))
def test_no_batch_holds_a_single_sample(n: int, size: int) -> None:
    lengths = [len(part.rows) for part in batches(image_set(n, 2), size, Augmentation()).epoch(0)]
    assert min(lengths) > 1 and max(lengths) <= size + 1


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "else"}])
def test_seed_and_name_decide_the_order(other: dict[str, Any]) -> None:
    assert fed(batches(image_set()), 0)[0] != fed(batches(image_set(), **other), 0)[0]


def test_every_epoch_has_its_own_order_and_augmentation() -> None:
    source = batches(image_set())
    (order, images), (later, other) = fed(source, 0), fed(source, 1)
    assert order != later and not torch.equal(images, other)


def test_an_epoch_can_be_repeated() -> None:
    source = batches(image_set())
    list(source.epoch(1))
    assert fed(source, 0)[0] == fed(batches(image_set()), 0)[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_lazy_sets_larger_than_memory_give_the_same_batches(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_set(dtype=dtype)
    pixels = images.read(slice(None))
    lazy = images.replace(images=LazyImages(lambda i: pixels[i], len(pixels), pixels.shape[1:], dtype))
    expected = fed(batches(images), 0)
    monkeypatch.setattr(batch_module, "IN_MEMORY", 0)
    order, result = fed(batches(lazy), 0)
    assert order == expected[0] and torch.equal(result, expected[1])


def test_float_images_are_not_rounded() -> None:
    faint = np.full((4, 2, 2, 3), 0.5004, np.float32)
    _, images = fed(batches(ImageSet(faint, [0, 1, 2, 0], 3), augmentation=Augmentation(crop=1)), 0)
    assert set(images.unique().tolist()) <= {0.0, float(np.float32(0.5004))}


# objectives


def test_soft_labels_that_are_hard_change_nothing() -> None:
    images = image_set()
    one_hot = F.one_hot(torch.tensor(images.labels), 3).float()
    hard, soft = network(), network()
    curves = [
        fit(model, ShuffledBatches(Samples(images, CPU, targets), 4, Context(), ALL))
        for model, targets in ((hard, None), (soft, one_hot))
    ]
    assert curves[0]["accuracy"] == curves[1]["accuracy"]
    assert curves[0]["loss"] == pytest.approx(curves[1]["loss"], rel=1e-5)


@given(
    logits=st.lists(st.lists(st.floats(-9, 9), min_size=3, max_size=3), min_size=3, max_size=3),
    weights=st.lists(st.floats(0.125, 8), min_size=3, max_size=3),
)
def test_class_weights_are_those_of_torch(logits: list[list[float]], weights: list[float]) -> None:
    batch = Batch(torch.tensor(logits), torch.tensor([2, 0, 1]), torch.arange(3))
    loss = cross_entropy(torch.tensor(weights))(nn.Identity(), batch)["loss"]
    picked = torch.log_softmax(torch.tensor(logits), 1)[torch.arange(3), batch.targets]
    share = torch.tensor(weights)[batch.targets]
    assert torch.allclose(loss, -(share * picked).sum() / share.sum(), atol=1e-5)


# curves


def untouched(value: Callable[[Batch], Tensor]) -> training.Objective:
    """Return an objective with the given value and a gradient of zero."""

    def objective(model: nn.Module, batch: Batch) -> Losses:
        return {"loss": value(batch) + 0 * model(batch.images).sum()}

    return objective


@given(n=st.integers(2, 40), size=st.integers(2, 9))
@settings(max_examples=25)
def test_curves_are_means_over_samples_not_over_batches(n: int, size: int) -> None:
    source = batches(image_set(n, 2), size, Augmentation())
    curves = fit(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), source, objective=untouched(lambda b: b.rows.float().mean())
    )
    assert curves["loss"] == pytest.approx([(n - 1) / 2] * 2, rel=1e-6)


def test_the_ordinary_curves_are_loss_and_accuracy_over_all_samples() -> None:
    images, model = image_set(11), network().eval()
    source = batches(images, 4, Augmentation())
    curves = fit(model, source, epochs=1, lr=1e-30, eval_mode=True)
    logits = model(to_batch(images.read(slice(None)), CPU)).detach()
    labels = torch.tensor(images.labels)
    assert curves["loss"] == pytest.approx([float(F.cross_entropy(logits, labels))], rel=1e-5)
    assert curves["accuracy"] == pytest.approx([float((logits.argmax(1) == labels).float().mean())], rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverging_loss_stops_the_run(value: float) -> None:
    with pytest.raises(RunError, match="diverged") as stop:
        fit(network(), objective=untouched(lambda b: torch.tensor(value)), name="probe")
    assert stop.value.where == "probe, epoch 0"


def test_a_source_without_batches_is_refused() -> None:
    class Empty(ShuffledBatches):
        def epoch(self, number: int) -> Any:
            return iter(())

    with pytest.raises(RunError, match="no batch"):
        fit(network(), Empty(Samples(image_set(), CPU), 4, Context(), ALL))


@pytest.mark.parametrize(("n", "size"), [(1, 8), (4, 1)])
def test_batches_of_one_sample_that_batch_norm_cannot_take_are_explained(n: int, size: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 6), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(RunError, match="batch norm cannot train on one sample") as stop:
        fit(model, batches(image_set(n), size), name="probe")
    assert stop.value.where == "probe, epoch 0" and "batch_size ≥ 2" in str(stop.value)
    fit(model, batches(image_set(n), size), eval_mode=True)  # statistics are not needed here
    fit(network(), batches(image_set(n), size))  # more than one value per channel


@pytest.mark.parametrize("fails_in", ["step", "batch"])
def test_running_out_of_memory_is_explained(fails_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    source = batches(image_set())
    if fails_in == "batch":
        monkeypatch.setattr(source.samples, "pixels", full)
    with pytest.raises(RunError, match="out of memory") as stop:
        fit(network(), source, objective=full, batch_size=4, name="probe")
    assert stop.value.where == "probe, epoch 0" and "lower batch_size" in str(stop.value)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_other_errors_of_a_step_pass(kind: type[Exception]) -> None:
    def broken(*_: Any) -> Losses:
        raise kind("shape mismatch")

    with pytest.raises(kind, match="shape mismatch"):
        fit(network(), objective=broken)


# what is left alone


def test_the_hosts_random_streams_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index,union-attr]  # noqa: NPY002
    fit(network(dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[index,union-attr]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_training_on_the_cpu_does_not_seed_the_hosts_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seeded = network(dropout=0.5), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    fit(model)
    assert seeded == []


def test_a_callers_random_state_does_not_matter() -> None:
    first, second = network(dropout=0.5), network(dropout=0.5)
    fit(first)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        fit(second)
    assert same(first, second)


def test_dropout_depends_on_the_seed() -> None:
    source = batches(image_set())
    first, second = network(dropout=0.5), network(dropout=0.5)
    fit(first, source, seed=0)
    fit(second, source, seed=1)
    assert not same(first, second)


def test_images_are_left_alone() -> None:
    images = image_set()
    before = images.fingerprint()
    fit(network(), batches(images))
    assert images.fingerprint() == before


# recipe


def rates(recipe: Recipe) -> list[float]:
    optimizer = make_optimizer(nn.Linear(1, 1), recipe)
    return stepped(optimizer, make_schedule(optimizer, recipe), recipe.epochs)


def stepped(optimizer: torch.optim.Optimizer, schedule: Any, epochs: int) -> list[float]:
    seen = []
    for _ in range(epochs + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def sgd(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr)


def test_the_cosine_schedule_is_that_of_torch() -> None:
    reference = sgd(0.3)
    expected = stepped(reference, torch.optim.lr_scheduler.CosineAnnealingLR(reference, 7), 7)
    assert rates(Recipe(epochs=7, lr=0.3)) == pytest.approx(expected, abs=1e-12)


def test_the_step_schedule_is_that_of_torch() -> None:
    reference = sgd(0.3)
    expected = stepped(reference, torch.optim.lr_scheduler.MultiStepLR(reference, [2, 5], 0.2), 7)
    recipe = Recipe(epochs=7, lr=0.3, schedule="step", milestones=(2, 5), gamma=0.2)
    assert rates(recipe) == pytest.approx(expected, rel=1e-9)


def test_the_constant_schedule_is_constant() -> None:
    assert set(rates(Recipe(epochs=3, lr=0.3, schedule="constant"))) == {0.3}


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimizer_is_the_one_asked_for(name: str, kind: type) -> None:
    model = network()
    optimizer = make_optimizer(model, Recipe(optimizer=name, lr=0.02, weight_decay=0.1), [model[-1].weight])
    assert type(optimizer) is kind
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(5, 0.1), (1, 0)]
    assert {group["lr"] for group in optimizer.param_groups} == {0.02}


def test_parameters_without_gradient_are_left_alone() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = state(model)
    fit(model, lr=0.1)
    after = state(model)
    assert torch.equal(before["0.weight"], after["0.weight"]) and not torch.equal(before["6.weight"], after["6.weight"])


def test_eval_mode_freezes_batch_norm_statistics_and_trains_its_weights() -> None:
    model, modes = network(), []
    before = state(model)
    fit(model, eval_mode=True, on_epoch=lambda _: modes.append(model.training))
    after = state(model)
    assert torch.equal(before["1.running_mean"], after["1.running_mean"]) and modes == [False, False]
    assert not torch.equal(before["1.weight"], after["1.weight"])


def test_train_mode_updates_batch_norm_and_ends_in_eval_mode() -> None:
    model, modes = network(), []
    fit(model, on_epoch=lambda _: modes.append(model.training))
    assert int(model[1].num_batches_tracked) == 6 and modes == [True, True]
    assert not any(module.training for module in model.modules())


def test_hooks_see_every_step_and_every_epoch() -> None:
    steps, epochs = [], []
    fit(network(), after_step=lambda: steps.append(0), on_epoch=epochs.append)
    assert len(steps) == 2 * 3 and epochs == [0, 1]


def test_bf16_runs_on_the_cpu_and_keeps_float32_weights() -> None:
    model, reference = network(), network()
    curves = fit(model, precision="bf16")
    assert curves["loss"] == pytest.approx(fit(reference)["loss"], rel=0.05)
    assert {value.dtype for name, value in state(model).items() if "tracked" not in name} == {torch.float32}


def test_auto_precision_is_float32_on_the_cpu() -> None:
    auto, full = network(), network()
    fit(auto, precision="auto")
    fit(full, precision="float32")
    assert same(auto, full)


@pytest.mark.parametrize(("capability", "cast"), [((7, 5), False), ((8, 0), True)])
def test_auto_precision_is_bf16_on_gpus_that_have_it(
    capability: tuple[int, int], cast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: (kind, dtype))
    found = training._autocast(torch.device("cuda", 0), "auto")
    assert (found == ("cuda", torch.bfloat16)) == cast


def test_the_memory_layout_does_not_change_the_result() -> None:
    first, second = network(), network()
    fit(first, channels_last=True)
    fit(second, channels_last=False)
    assert all(torch.allclose(value, state(second)[name], atol=1e-5) for name, value in state(first).items())


def test_no_epoch_leaves_the_model_as_it_is() -> None:
    model = network()
    assert fit(model, epochs=0) == {} and same(model, network())


def test_an_untrained_classifier_takes_after_another_unless_an_architecture_is_named() -> None:
    images = image_set()
    like = Classifier.build("small_resnet", 3, seed=1, mean=[0.3], std=[0.2], input_size=16)
    twin = untrained(images, None, 5, CPU, like=like, default="fast_resnet")
    assert twin.fingerprint() == like.fresh(5).fingerprint() and twin.input_size == 16
    moved = untrained(images, None, 5, CPU, like=like, mean=[0.5])
    assert (moved.mean.item(), moved.std.item(), moved.input_size) == (0.5, like.std.item(), 16)
    assert untrained(images, None, 5, CPU, like=like, input_size=8).input_size == 8
    other = untrained(images, "fast_resnet", 5, CPU, like=like)
    assert (other.architecture, other.input_size) == ("fast_resnet", None)
    assert (other.mean.item(), other.std.item()) == (like.mean.item(), like.std.item())
    alone = untrained(images, None, 5, CPU, default="fast_resnet")
    assert all(torch.equal(value, state(alone)[name]) for name, value in state(other).items())
    assert torch.allclose(alone.mean.flatten(), torch.tensor(images.read(slice(None)) / 255).mean((0, 1, 2)).float())
    assert untrained(images, "fast_resnet", 5, CPU, normalised=False).mean.eq(0).all()
