"""Grayscale and noise: modules B and C of ECLIPSE, as every training sees them (eclipse.md §9.2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elixir_plugin.core.augmentation import Augmentation, augment, draw_augmentation, draw_noise, luminance
from elixir_plugin.core.classifier.classifier import to_batch
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.defenses.eclipse.defense import Eclipse
from elixir_plugin.evaluation.metrics import evaluate, model_metrics
from elixir_plugin.evaluation.retraining import Retraining, retrain
from elixir_plugin.testing.defenses import tiny_case
from elixir_plugin.training import loop as training
from elixir_plugin.training.batches import Samples, ShuffledBatches

CPU = torch.device("cpu")


def changed(pixels: Tensor, settings: Augmentation, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    draws = draw_augmentation(settings, len(pixels), generator, CPU)
    return augment(pixels, settings, draws | draw_noise(settings, pixels.shape, generator, CPU))


def colours(count: int = 20, dtype: Any = np.uint8) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 5, 3), np.uint8)
    return torch.from_numpy(pixels if dtype == np.uint8 else (pixels / np.float32(255)).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_nothing_asked_for_changes_nothing(dtype: Any) -> None:
    pixels = colours(dtype=dtype)
    assert torch.equal(changed(pixels, Augmentation()), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grayscale_gives_equal_channels_of_the_luminance(dtype: Any) -> None:
    pixels = colours(dtype=dtype)
    grey = changed(pixels, Augmentation(grayscale=1))
    assert grey.dtype == pixels.dtype
    assert torch.equal(grey[..., 0], grey[..., 1]) and torch.equal(grey[..., 1], grey[..., 2])
    wanted = pixels.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert (grey[..., 0].double() - wanted).abs().max() <= (0.5001 if dtype == np.uint8 else 1e-6)


def test_luminance_agrees_with_pillow() -> None:
    from PIL import Image

    pixels = colours(50)
    for image, grey in zip(pixels.numpy(), luminance(pixels).numpy(), strict=True):
        theirs = np.asarray(Image.fromarray(image).convert("L")).astype(int)
        assert np.abs(theirs - grey[..., 0]).max() <= 1  # Pillow rounds in 16-bit fixed point


def test_one_channel_is_its_own_luminance() -> None:
    pixels = colours()[..., :1]
    assert torch.equal(changed(pixels, Augmentation(grayscale=1)), pixels)


def test_grayscale_rate() -> None:
    pixels = torch.tensor([10, 100, 200], dtype=torch.uint8).expand(10_000, 1, 1, 3)
    grey = changed(pixels, Augmentation(grayscale=0.4))
    rate = (grey[:, 0, 0, 0] == grey[:, 0, 0, 2]).float().mean()
    assert abs(float(rate) - 0.4) < 0.02


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_noise_has_the_standard_deviation_asked_for_and_differs_per_channel(dtype: Any) -> None:
    level = 128 if dtype == np.uint8 else 0.5
    pixels = torch.full((200, 16, 16, 3), level, dtype=torch.uint8 if dtype == np.uint8 else torch.float32)
    scale = 255 if dtype == np.uint8 else 1
    residual = (changed(pixels, Augmentation(noise=0.05, grayscale=1)).float() - level) / scale
    assert abs(float(residual.std()) - 0.05) < 0.001 and abs(float(residual.mean())) < 0.001
    assert not torch.equal(residual[..., 0], residual[..., 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_noise_stays_in_range(dtype: Any) -> None:
    out = changed(colours(dtype=dtype), Augmentation(noise=1.0))
    assert out.min() >= 0 and out.max() <= (255 if dtype == np.uint8 else 1)


def test_epochs_differ_and_repeat() -> None:
    images = ImageSet(colours(8).numpy(), np.zeros(8, int), 1)
    source = ShuffledBatches(Samples(images, CPU), 4, Context(3), Augmentation(grayscale=0.4, noise=0.05), "train")

    def seen(epoch: int) -> Tensor:
        parts = list(source.epoch(epoch))
        rows = torch.cat([part.rows for part in parts])
        return torch.cat([part.images for part in parts])[rows.argsort()]

    assert torch.equal(seen(0), seen(0)) and not torch.equal(seen(0), seen(1))


def test_b_and_c_act_while_a_model_trains_and_not_when_it_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    case, plan = tiny_case(), Retraining(epochs=1, augmentation=Augmentation())
    asked = Eclipse(purify=False, gray_p=1.0, noise_std=0.5).run(case)
    plain = dataclasses.replace(asked, augmentation=None)
    assert asked.augmentation is not None and case.test is not None
    asked.model, undisturbed = (retrain(case, outcome, plan, Context()) for outcome in (asked, plain))
    plain.model = asked.model  # the same weights, so that evaluation alone can differ
    assert not np.array_equal(asked.model.predict(case.test), undisturbed.predict(case.test))  # they did act

    monkeypatch.setattr(training, "augment", lambda *_: pytest.fail("images were augmented"))
    with torch.inference_mode():
        as_stored = asked.model(to_batch(case.test.read(slice(None)), CPU)).numpy()
    assert np.allclose(asked.model.predict(case.test), as_stored, atol=1e-5)
    assert np.array_equal(asked.model.predict(case.test), asked.model.predict(case.test))
    with_both, without = evaluate(case, asked), evaluate(case, plain)
    assert with_both == without
    assert with_both.after == model_metrics(asked.model, case.test, case.test_poisoned)
