"""Training in minutes on a CPU: the preset ``fast``, its schedule, and the network that goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elixir_plugin import Classifier, Context, Recipe, Samples, ShuffledBatches, train
from elixir_plugin.core.classifier.fast_convnet import BRIGHTNESS, COLOUR, FastConvNet, WhitenedStem
from elixir_plugin.errors import SettingsError
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.testing import tiny_case
from elixir_plugin.training import device as devices
from elixir_plugin.training.checkpoint import Checkpoint
from elixir_plugin.training.loop import cross_entropy, make_optimizer, make_schedule


def rates(recipe: Recipe, steps: int) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    schedule = make_schedule(optimizer, recipe, steps)
    found = []
    for _ in range(recipe.epochs * steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return [*found, schedule.get_last_lr()[0]]


class TestTriangle:
    def test_rises_to_the_rate_and_falls_to_a_hundredth(self) -> None:
        found = rates(Recipe(epochs=5, lr=2.0, schedule="triangle", warmup=0.2), steps=4)
        assert found[0] == pytest.approx(0.2 * 2.0)
        assert max(found) == found[4] == pytest.approx(2.0)
        assert found[2] == pytest.approx((0.4 + 2.0) / 2)
        assert found[12] == pytest.approx((2.0 + 0.02) / 2)
        assert found[-1] == pytest.approx(0.02)

    def test_a_killed_run_ends_as_one_that_was_not(self, tmp_path: Path) -> None:
        case, recipe = tiny_case(), Recipe(epochs=3, batch_size=16, schedule="triangle", nesterov=True)
        samples = Samples(case.train, torch.device("cpu"))

        def trained(epochs: int, checkpoint: Checkpoint | None = None) -> Classifier:
            context = Context(seed=0)
            model = Classifier.build("small_resnet", case.num_classes, seed=0)
            source = ShuffledBatches(samples, 16, context, recipe.augmentation)

            def stop(epoch: int) -> None:
                if epoch == epochs:
                    raise KeyboardInterrupt

            train(model, source, recipe, context, checkpoint=checkpoint, on_epoch=stop)
            return model

        whole = trained(-1)
        with pytest.raises(KeyboardInterrupt):
            trained(1, Checkpoint(tmp_path / "state", every=0))
        resumed = trained(-1, Checkpoint(tmp_path / "state", every=0))
        assert resumed.fingerprint() == whole.fingerprint()


def test_labels_are_smoothed() -> None:
    case, model = tiny_case(), nn.Linear(3, 4)
    batch = next(
        ShuffledBatches(Samples(case.train, torch.device("cpu")), 8, Context(seed=0), Recipe().augmentation).epoch(0)
    )
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), model)
    logits, hot = flat(batch.images), F.one_hot(batch.targets, 4).float()
    by_hand = -((0.8 * hot + 0.05) * logits.log_softmax(1)).sum(1).mean()
    assert cross_entropy(smoothing=0.2)(flat, batch)["loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)


class TestPreset:
    @pytest.mark.parametrize(("size", "batch"), [(50_000, 512), (24_576, 512), (4_800, 100), (100, 16)])
    def test_a_small_set_takes_smaller_batches_at_a_lower_rate(self, size: int, batch: int) -> None:
        recipe = Recipe.build({"preset": "fast"}).for_size(size)
        assert (recipe.batch_size, recipe.lr) == (batch, pytest.approx(batch / 512))
        assert recipe.schedule == "triangle"

    def test_other_recipes_keep_their_batches(self) -> None:
        assert Recipe().for_size(100) == Recipe()

    @pytest.mark.parametrize("values", [{"preset": "fast", "epochs": 4}, {"epochs": 4, "preset": "fast"}])
    def test_its_values_are_overlaid_by_those_given(self, values: dict[str, object]) -> None:
        recipe = Recipe.build(values)
        assert (recipe.epochs, recipe.schedule, recipe.batch_size) == (4, "triangle", 512)

    def test_retraining_takes_the_network_too_and_keeps_its_own_mirroring(self) -> None:
        plan = Retraining.build({"preset": "fast"})
        assert (plan.architecture, plan.augmentation.flip, plan.augmentation.crop) == ("fast_convnet", "auto", 2)

    def test_one_word_stands_for_nested_settings(self) -> None:
        from elixir_plugin import get_defense

        settings = get_defense("dataelixir")(recipe="fast", train_final=True).settings
        assert (settings.recipe.schedule, settings.recipe.augmentation.crop) == ("triangle", 2)
        nested = get_defense("dataelixir")(recipe={"preset": "fast", "epochs": 3}).settings.recipe
        assert (nested.schedule, nested.epochs) == ("triangle", 3)

    def test_an_unknown_one_is_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"(?s)unknown preset.*fastt.*did you mean .fast"):
            Recipe.build({"preset": "fastt"})

    def test_runs_of_other_recipes_are_found_again(self) -> None:
        assert (Recipe().fingerprint(), Retraining().fingerprint()) == ("67ebd76948c7", "fac4fc2b54b5")


@pytest.mark.parametrize(("supported", "expected"), [({"avx512_bf16"}, True), ({"amx_tile"}, True), (set(), False)])
def test_bf16_is_taken_on_cpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, supported: set[str], expected: bool
) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in supported, raising=False)
    assert devices.computes_bf16(torch.device("cpu")) is expected


class TestFastConvNet:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_the_stem_whitens_each_channel(self, channels: int) -> None:
        filters = WhitenedStem(channels).filters
        half = len(filters) // 2
        assert half == 4 * channels and torch.equal(filters[:half], -filters[half:])
        whitening = filters[:half].flatten(1)
        covariance = torch.linalg.inv(whitening.T @ whitening)  # of the patches that it makes white
        torch.testing.assert_close(whitening @ covariance @ whitening.T, torch.eye(half), atol=1e-4, rtol=0)
        variances = sum(each**2 for each in BRIGHTNESS) + (channels - 1) * sum(each**2 for each in COLOUR)
        assert covariance.trace().item() == pytest.approx(variances, rel=1e-4)
        order = torch.tensor([0, 2, 1, 3])  # the transposed image
        for channel in range(channels):
            own = filters[4 * channel : 4 * channel + 4]
            torch.testing.assert_close(own[order], own.transpose(2, 3))

    def test_no_filter_answers_to_grey_images_with_a_constant(self) -> None:
        grey = torch.randn(500, 1, 2, 2).expand(-1, 3, -1, -1)
        spread = F.conv2d(grey, WhitenedStem(3).filters).std(0).flatten()
        assert spread.min() > 0.1

    @pytest.mark.parametrize("size", [16, 32])
    def test_learns_grey_images_in_bf16_as_in_float32(self, size: int) -> None:
        torch.manual_seed(0)
        centres = F.interpolate(torch.rand(4, 1, 4, 4), size=size)
        targets = torch.arange(64) % 4
        images = (centres[targets] + 0.1 * torch.randn(64, 1, size, size)).expand(-1, 3, -1, -1) - 0.5
        last = []
        for bf16 in (True, False):
            torch.manual_seed(1)
            model = FastConvNet((32, 32, 32), 4, 3).train()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            for _ in range(15):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = F.cross_entropy(model(images).float(), targets)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            last.append(loss.item())
        assert last[1] < 1.2 and last[0] == pytest.approx(last[1], abs=0.02)

    @pytest.mark.parametrize("size", [8, 9, 16, 28, 32, 64])
    def test_any_size_of_image(self, size: int) -> None:
        assert FastConvNet((4, 8, 8), 5, 3)(torch.rand(2, 3, size, size)).shape == (2, 5)

    def test_is_a_classifier_like_the_others(self, tmp_path: Path) -> None:
        model = Classifier.build("fast_convnet", 5, seed=1)
        assert model.head(torch.rand(2, 3, 32, 32)) == "linear"
        assert "stem.filters" not in model.module.state_dict()
        model.save(tmp_path / "model")
        images = torch.rand(3, 3, 32, 32)
        torch.testing.assert_close(Classifier.load(tmp_path / "model").eval()(images), model.eval()(images))
        other = model.fresh(2)
        assert not torch.equal(other.module.state_dict()["linear.weight"], model.module.state_dict()["linear.weight"])
        assert other.fingerprint() == Classifier.build("fast_convnet", 5, seed=2).fingerprint()
