"""What a host hands over: read in its order, its truth not looked at, its state left alone."""

from __future__ import annotations

import random
from typing import Any

import made_items
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from elixir_plugin.api.arrays import Normalisation
from elixir_plugin.api.convert import TensorImages, as_image_set, streams_aside
from elixir_plugin.api.models import as_classifier
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.images import ImageSet
from elixir_plugin.errors import InputError

N, CLASSES = 12, 3
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 6, 6, 3), np.uint8)
LABELS = np.arange(N) % CLASSES
FLOATS = PIXELS.astype(np.float32) / 255
TENSORS = torch.from_numpy(FLOATS).permute(0, 3, 1, 2)


class Items(made_items.Items):
    def __init__(self, make: Any, length: int = N) -> None:
        super().__init__(make, length)


def same(found: ImageSet, pixels: np.ndarray[Any, Any] = PIXELS, labels: np.ndarray[Any, Any] = LABELS) -> bool:
    images = found.read(slice(None))
    return images.dtype == pixels.dtype and bool((images == pixels).all() and (found.labels == labels).all())


FORMS = {
    "arrays": ((PIXELS, LABELS), PIXELS),
    "channels first": ((PIXELS.transpose(0, 3, 1, 2), LABELS), PIXELS),
    "floats": ((FLOATS.astype(np.float64), LABELS.tolist()), FLOATS),
    "one-hot": ((PIXELS, np.eye(CLASSES, dtype=np.float32)[LABELS]), PIXELS),
    "tensors": ((TENSORS, torch.from_numpy(LABELS)), FLOATS),
    "tensor dataset": (TensorDataset(TENSORS, torch.from_numpy(LABELS)), FLOATS),
    "pictures": (Items(lambda i: (Image.fromarray(PIXELS[i]), int(LABELS[i]))), PIXELS),
    "arrays as items": (Items(lambda i: (PIXELS[i], LABELS[i])), PIXELS),
    "five parts": (Items(lambda i: (TENSORS[i], int(LABELS[i]), i, 1, 0)), FLOATS),
    "one-hot items": (Items(lambda i: (PIXELS[i], np.eye(CLASSES)[LABELS[i]])), PIXELS),
    "list of samples": ([(PIXELS[i], int(LABELS[i])) for i in range(N)], PIXELS),
    "loader": (DataLoader(TensorDataset(TENSORS, torch.from_numpy(LABELS)), batch_size=5), FLOATS),
    "shuffling loader": (DataLoader(TensorDataset(TENSORS, torch.from_numpy(LABELS)), 5, shuffle=True), FLOATS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples_in_the_same_order(form: str) -> None:
    given, expected = FORMS[form]
    found = as_image_set(given)
    assert found.num_classes == CLASSES and same(found, expected)


def test_a_collate_function_is_honoured() -> None:
    def turned(samples: list[Any]) -> Any:
        return torch.stack([1 - x for x, _ in samples]), torch.stack([y for _, y in samples])

    loader = DataLoader(TensorDataset(TENSORS, torch.from_numpy(LABELS)), 5, collate_fn=turned)
    assert same(as_image_set(loader), 1 - FLOATS)


def test_subsets_keep_their_order() -> None:
    rows = [7, 2, 11]
    assert same(as_image_set(Subset(FORMS["pictures"][0], rows), CLASSES), PIXELS[rows], LABELS[rows])


def test_grey_images_have_one_channel() -> None:
    grey = Items(lambda i: (Image.fromarray(PIXELS[i, :, :, 0]), int(LABELS[i])))
    assert same(as_image_set(grey), PIXELS[..., :1])


def test_an_image_set_comes_back_as_it_is() -> None:
    given = ImageSet(PIXELS, LABELS, CLASSES)
    assert as_image_set(given) is given


def test_normalised_pixels_are_undone() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    shifted = (TENSORS - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    pair = (shifted, torch.from_numpy(LABELS))
    for given in (pair, TensorDataset(*pair)):
        found = as_image_set(given, normalised=Normalisation(mean, std)).read(slice(None))
        np.testing.assert_allclose(found, FLOATS, atol=1e-6)
        with pytest.raises(InputError, match="out of range") as caught:
            as_image_set(given)
        assert "normalisation" in str(caught.value.hint)
        with pytest.raises(InputError, match="out of range"):
            as_image_set(given, normalised=Normalisation((0.9,) * 3, std))


def test_the_host_may_go_on_writing_into_its_arrays() -> None:
    pixels = PIXELS.copy()
    found = as_image_set((pixels, LABELS))
    pixels[:] = 0
    assert same(found)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(TENSORS[0], 0)])


def jittered(i: int) -> Any:
    return torch.rand(3, 6, 6), 0


REFUSED = {
    "augmentation": (Items(jittered), "change from one access to the next"),
    "mixed sizes": (Items(lambda i: (PIXELS[i, : 4 + i % 2], 0)), "mixed size"),
    "mixed types": (Items(lambda i: (PIXELS[i] if i else FLOATS[i], 0)), "mixed size or type"),
    "no labels": (Items(lambda i: PIXELS[i]), "not \\(image, label"),
    "dictionaries": (Items(lambda i: {"image": PIXELS[i], "label": 0}), "not \\(image, label"),
    "a loader over a stream": (DataLoader(Stream()), "no fixed positions"),
    "a loader over a part": (
        DataLoader(TensorDataset(TENSORS, torch.from_numpy(LABELS)), sampler=SubsetRandomSampler([1, 2])),
        "no fixed positions",
    ),
    "deep pictures": (Items(lambda i: (Image.new("I;16", (6, 6)), 0)), "more than 8 bits"),
    "nothing": (Items(jittered, 0), "empty"),
    "a number": (3, "not a data set"),
    "a mapping": ({"x": PIXELS}, "not a data set"),
    "four channels": ((np.zeros((2, 6, 6, 4), np.uint8), [0, 1]), "no axis has"),
    "three axes": (Items(lambda i: (np.zeros((2, 2, 6, 3), np.uint8), 0)), "four axes"),
    "unclear layout": ((np.zeros((2, 3, 6, 3), np.uint8), [0, 1]), "unclear"),
    "wide integers": ((PIXELS.astype(np.int32), LABELS), "of this type"),
    "fractional labels": ((PIXELS, LABELS + 0.5), "must be integers"),
    "too few labels": ((PIXELS, LABELS[:-1]), "one label per image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused(name: str) -> None:
    given, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        as_image_set(given)


def test_a_dataset_that_hands_out_true_labels_is_refused() -> None:
    data = Items(lambda i: (PIXELS[i], 0, i, 1, int(LABELS[i])))
    data.getitem_all_switch = True  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="true label"):
        as_image_set(data)


def test_random_streams_of_the_host_stay_and_the_reading_repeats() -> None:
    class Noisy(Items):
        """Random, but the same on every access: drawn when first asked for."""

        def __init__(self) -> None:
            super().__init__(self.make)
            self.kept: dict[int, Any] = {}

        def make(self, i: int) -> Any:
            drawn = torch.rand(3, 6, 6) * np.random.rand() * random.random()  # noqa: NPY002
            return self.kept.setdefault(i, drawn), 0

    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first, second = (as_image_set(Noisy(), 1, seed=5) for _ in range(2))
    assert first.fingerprint() == second.fingerprint() != as_image_set(Noisy(), 1, seed=6).fingerprint()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]  # noqa: NPY002


def test_streams_come_back_after_a_failure() -> None:
    before = random.getstate()
    with pytest.raises(KeyError), streams_aside(1):
        random.random()
        raise KeyError
    assert random.getstate() == before


def test_a_module_becomes_a_classifier_and_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(108), nn.Linear(108, CLASSES)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = as_classifier(module, images=PIXELS, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert (model.num_classes, model.channels) == (CLASSES, 3) and model.module is not module
    assert module.training and all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.eval()
    torch.testing.assert_close(model.eval()(TENSORS), module((TENSORS - 0.5) / 0.25))
    assert as_classifier(model) is model


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(5, 2), "cannot take"),
        (nn.Flatten(0), "one logit per class"),
        (nn.Sequential(nn.Flatten(), nn.Linear(108, 7)), "one logit per class"),
        ("resnet", "not a model"),
    ],
)
def test_models_that_do_not_fit_are_refused(module: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_classifier(module, images=PIXELS, num_classes=CLASSES)


def test_the_number_of_classes_must_come_from_somewhere() -> None:
    with pytest.raises(InputError, match="number of classes unknown"):
        as_classifier(nn.Linear(5, 2))


def test_an_image_set_is_a_torch_dataset_again() -> None:
    images = ImageSet(PIXELS, LABELS, CLASSES)
    back = TensorImages(images)
    assert len(back) == N and back.targets == LABELS.tolist()
    torch.testing.assert_close(back[3][0], TENSORS[3])
    assert back[-1][1] == LABELS[-1] and TensorImages(images, lambda x: x.sum())[0][0].ndim == 0
    with pytest.raises(IndexError):
        _ = back[N]
    batch, _ = next(iter(DataLoader(back, batch_size=N)))
    torch.testing.assert_close(batch, TENSORS)
    assert same(as_image_set(back), FLOATS)


def test_a_classifier_keeps_its_own_normalisation() -> None:
    own = Classifier(nn.Flatten(), 108, mean=(0.5,), std=(0.5,))
    assert as_classifier(own, images=PIXELS, mean=(0.1,), std=(0.1,)) is own
