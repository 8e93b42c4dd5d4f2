"""Adaptive backdoors: what training samples show, what the attacker shows, and what covers keep."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from elixir_plugin import ImageSet
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.testbed.adaptive import AdaptiveBlend, AdaptivePatch
from elixir_plugin.testbed.poisons import Blended

N, CLASSES, GREY = 200, 5, 100


def grey(n: int = N, edge: int = 16) -> ImageSet:
    images = np.full((n, edge, edge, 3), GREY, np.uint8)
    return ImageSet(images, np.arange(n) % CLASSES, CLASSES, ids=1000 + np.arange(n))


@pytest.mark.parametrize("cls", [AdaptiveBlend, AdaptivePatch])
def test_poison_gets_the_label_and_covers_keep_theirs(cls: type[AdaptiveBlend] | type[AdaptivePatch]) -> None:
    clean = grey()
    train, truth = cls(rate=0.1, cover_rate=0.15, target=2).poison(clean, seed=3)
    assert truth.cover is not None
    assert (int(truth.poison.sum()), int(truth.cover.sum())) == (20, 30)
    assert not (truth.poison & truth.cover).any()
    assert (train.labels[truth.poison] == 2).all() and (clean.labels[truth.poison] != 2).all()
    assert np.array_equal(train.labels[~truth.poison], clean.labels[~truth.poison])
    changed = (train.read(slice(None)) != GREY).any((1, 2, 3))
    assert np.array_equal(changed, truth.poison | truth.cover)


def test_the_papers_rates_are_the_defaults() -> None:
    blend, patch = AdaptiveBlend().settings, AdaptivePatch().settings
    assert (blend.rate, blend.cover_rate, blend.alpha, blend.test_alpha) == (0.003, 0.003, 0.15, 0.2)
    assert (patch.rate, patch.cover_rate) == (0.003, 0.006)


class TestBlend:
    def test_half_of_the_pieces_show_and_another_half_in_another_sample(self) -> None:
        poison = AdaptiveBlend(rate=0.2)
        train, truth = poison.poison(grey())
        shown = (train.read(slice(None))[truth.poison] != GREY).any(3)
        blocks = shown.reshape(-1, 4, 4, 4, 4).any((2, 4)).reshape(len(shown), 16)
        assert (blocks.sum(1) == 8).all()
        assert len(np.unique(blocks, axis=0)) > 30

    def test_what_shows_is_the_picture_at_its_weight(self) -> None:
        poison = AdaptiveBlend(rate=0.2, alpha=0.3, shown=1.0)
        train, truth = poison.poison(grey())
        expected = np.rint(0.7 * GREY + 0.3 * 255 * poison.pattern((16, 16, 3)))
        assert np.abs(train.read(slice(None))[truth.poison].astype(int) - expected).max() <= 1

    def test_the_attacker_shows_all_of_it_at_another_weight(self) -> None:
        poison = AdaptiveBlend(test_alpha=0.5)
        shown = poison.triggered_test(grey()).samples.read(slice(None))
        expected = np.rint(0.5 * GREY + 0.5 * 255 * poison.pattern((16, 16, 3)))
        assert np.abs(shown.astype(int) - expected).max() <= 1
        assert len(shown) == N - N // CLASSES

    def test_a_sample_shows_the_same_pieces_in_any_company(self) -> None:
        poison = AdaptiveBlend()
        images, labels, ids = np.full((6, 16, 16, 3), 0.5, np.float32), np.zeros(6, int), np.arange(6)
        together = poison.trigger(images, labels, ids)
        alone = poison.trigger(images[4:5], labels[4:5], ids[4:5])
        assert np.array_equal(together[4:5], alone)

    @pytest.mark.parametrize(("values", "says"), [({"pieces": 8}, "square"), ({"pieces": 400}, "more pieces")])
    def test_pieces_that_cannot_be(self, values: dict[str, int], says: str) -> None:
        with pytest.raises(SettingsError, match=says):
            AdaptiveBlend(rate=0.1, **values).poison(grey())


class TestPatch:
    def test_each_training_sample_carries_one_patch_and_all_are_used(self) -> None:
        train, truth = AdaptivePatch(rate=0.5).poison(grey())
        changed = (train.read(slice(None))[truth.poison] != GREY).any(3)
        quarters = changed.reshape(-1, 2, 8, 2, 8).any((2, 4)).reshape(-1, 4)
        assert (quarters.sum(1) == 1).all()
        assert (quarters.sum(0) > 10).all()

    def test_the_attacker_shows_all_four_in_full(self) -> None:
        poison = AdaptivePatch()
        shown = poison.triggered_test(grey()).samples.read(slice(None))[0].astype(int)
        corners = (shown[:6, :6], shown[:6, -6:], shown[-6:, :6], shown[-6:, -6:])
        for corner, found in enumerate(corners):
            assert np.array_equal(found, np.rint(255 * poison.patch(corner, 3)))
        assert (shown[6:10] == GREY).all()

    def test_training_patches_are_as_faint_as_the_opacities_say(self) -> None:
        poison = AdaptivePatch(rate=0.5, opacities=(0.1, 0.2, 0.3, 0.4))
        train, truth = poison.poison(grey())
        images = train.read(slice(None))[truth.poison].astype(float)
        corners = (images[:, :6, :6], images[:, :6, -6:], images[:, -6:, :6], images[:, -6:, -6:])
        for corner, (found, opacity) in enumerate(zip(corners, (0.1, 0.2, 0.3, 0.4), strict=True)):
            marked = found[(found != GREY).any((1, 2, 3))]
            expected = np.rint(GREY + opacity * (255 * poison.patch(corner, 3) - GREY))
            assert np.abs(marked - expected).max() <= 1

    @pytest.mark.parametrize(("values", "says"), [({"size": 9}, "overlap"), ({"opacities": (0, 1, 1, 1)}, "opacities")])
    def test_patches_that_cannot_be(self, values: dict[str, object], says: str) -> None:
        with pytest.raises(SettingsError, match=says):
            AdaptivePatch(rate=0.1, **values).poison(grey())


class TestPictures:
    def test_a_file_is_scaled_and_blended_in(self, tmp_path) -> None:
        Image.new("RGB", (64, 48), (250, 0, 0)).save(tmp_path / "red.png")
        shown = Blended(picture=str(tmp_path / "red.png"), alpha=0.5).triggered_test(grey()).samples.read(slice(None))
        assert (shown[0, 0, 0] == [175, 50, 50]).all()

    def test_the_drawing_has_any_size_and_strong_contrasts(self) -> None:
        for edge, channels in ((8, 1), (16, 3), (64, 3)):
            drawn = Blended(picture="shapes").pattern((edge, edge, channels))
            assert drawn.shape == (edge, edge, channels) and drawn.min() >= 0 and drawn.max() <= 1
            assert drawn.std() > 0.1

    def test_what_is_wrong_is_said(self, tmp_path) -> None:
        with pytest.raises(InputError, match="not found"):
            Blended(picture=str(tmp_path / "none.png")).triggered_test(grey())
