"""Transforms of a host taken apart: what is read is what its model is shown, or nothing is read."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.backdoorbox import adapter
from elixir_plugin.adapters.common.transforms import (
    marked,
    name_of,
    normalisation_in,
    steps_of,
    without_random,
)  # fmt: skip
from elixir_plugin.adapters.trojanvision.defenses import Behaviour
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision import transforms as T
from torchvision.transforms import v2

from elixir_plugin.errors import InputError

N, CLASSES, EDGE = 12, 3, 8
PIXELS = np.random.default_rng(2).integers(0, 200, (N, EDGE, EDGE, 3), np.uint8)
LABELS = [i % CLASSES for i in range(N)]
POISON = frozenset({1, 5})
FLIP = T.RandomHorizontalFlip()
NORMALIZE = T.Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
FLOATS = v2.ToDtype(torch.float32, scale=True)


class AddCorner:
    """A trigger on pictures, arrays and tensors."""

    def __call__(self, image: Any) -> Any:
        if isinstance(image, torch.Tensor):
            image = image.clone()
            image[:, -2:, -2:] = 1
            return image
        pixels = np.array(image)
        pixels[-2:, -2:] = 255
        return Image.fromarray(pixels) if isinstance(image, Image.Image) else pixels


class Benign(Dataset[Any]):
    def __init__(self, transform: Any = None) -> None:
        self.targets, self.transform = LABELS, transform
        self.classes = ["ant", "bee", "cat"]

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        picture = Image.fromarray(PIXELS[index])
        return (picture if self.transform is None else self.transform(picture)), LABELS[index]


class Poisoned(Benign):
    def __init__(self, transform: Any, place: int = 0, trigger: Any = None) -> None:
        super().__init__(transform)
        self.poisoned_set = POISON
        self.poisoned_transform = copy.deepcopy(transform)
        self.poisoned_transform.transforms.insert(place, trigger or AddCorner())

    def __getitem__(self, index: int) -> Any:
        if index not in self.poisoned_set:
            return super().__getitem__(index)
        return self.poisoned_transform(Image.fromarray(PIXELS[index])), 0


class Darker:
    """Deterministic, and known to nobody."""

    def __call__(self, image: Any) -> Any:
        return image * 0.5 if isinstance(image, torch.Tensor) else Image.fromarray(np.asarray(image) // 2)


class Jitter:
    def __init__(self, chance: float = 0.5) -> None:
        self.chance = chance

    def __call__(self, image: Any) -> Any:
        return ImageOps.invert(image) if random.random() < self.chance else image


class OwnGenerator:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, image: Any) -> Any:
        return Image.fromarray(np.asarray(image) // 2 + self.rng.integers(0, 9, np.asarray(image).shape, np.uint8))


class OwnFlip(T.RandomHorizontalFlip):
    pass


class OwnCompose(T.Compose):
    pass


class Normalize:
    """Not torchvision's, with the usual names."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = mean, std

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def darker(image: Any) -> Any:
    return Darker()(image)


def shown_to_the_model(steps: list[Any], trigger: Any = None, place: int = 0) -> torch.Tensor:
    """The straightforward reading: each picture through the deterministic steps, poison with the trigger put in."""
    out = []
    for index in range(N):
        image: Any = Image.fromarray(PIXELS[index])
        chain = list(steps)
        if trigger is not None and index in POISON:
            chain.insert(place, trigger)
        for step in chain:
            image = step(image)
        out.append(image if isinstance(image, torch.Tensor) else T.ToTensor()(image))
    return torch.stack(out).float()


def given_to_the_model(case: Any) -> torch.Tensor:
    """What the network inside the case gets: the set as read, normalised by the classifier."""
    seen: list[torch.Tensor] = []
    hook = case.model.module.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    case.model.predict(case.train)
    hook.remove()
    return torch.cat(seen)


def network(size: int = EDGE) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)).eval()


TENSOR = T.ToTensor()
# transform as the host has it -> the steps that every image goes through
EXACT: dict[str, tuple[Any, list[Any]]] = {
    "nested": (T.Compose([T.Compose([FLIP, T.Compose([Darker()])]), T.Compose([TENSOR])]), [Darker(), TENSOR]),
    "lambda": (T.Compose([T.Lambda(ImageOps.invert), FLIP, TENSOR]), [ImageOps.invert, TENSOR]),
    "pad": (T.Compose([T.Pad(2), T.RandomCrop(12, padding=1), TENSOR]), [T.Pad(2), TENSOR]),
    "own class": (T.Compose([FLIP, Darker(), TENSOR]), [Darker(), TENSOR]),
    "own class on tensors": (T.Compose([FLIP, TENSOR, Darker()]), [TENSOR, Darker()]),
    "function": (T.Compose([darker, FLIP, TENSOR]), [darker, TENSOR]),
    "a function alone": (lambda image: TENSOR(darker(image)), [darker, TENSOR]),
    "sequential": (nn.Sequential(T.RandomCrop(8, padding=1), T.Pad(1)), [T.Pad(1)]),
    "sequential of tensors": (T.Compose([TENSOR, nn.Sequential(T.Pad(1), FLIP)]), [TENSOR, T.Pad(1)]),
    "pooling": (T.Compose([TENSOR, nn.AvgPool2d(2)]), [TENSOR, nn.AvgPool2d(2)]),
    "two normalisations": (
        T.Compose([TENSOR, T.Normalize((0.5,) * 3, (0.5,) * 3), FLIP, NORMALIZE]),
        [TENSOR, T.Normalize((0.5,) * 3, (0.5,) * 3), NORMALIZE],
    ),
    "normalisation of one value, and of three": (
        T.Compose([TENSOR, T.Normalize((0.5,), (0.5,)), NORMALIZE]),
        [TENSOR, T.Normalize((0.5,), (0.5,)), NORMALIZE],
    ),
    "own normalisation": (
        T.Compose([TENSOR, Normalize((0.4, 0.5, 0.6), (0.2,) * 3)]),
        [TENSOR, Normalize((0.4, 0.5, 0.6), (0.2,) * 3)],
    ),
    "work behind the normalisation": (
        T.Compose([TENSOR, NORMALIZE, T.Pad(1, padding_mode="edge")]),
        [TENSOR, NORMALIZE, T.Pad(1, padding_mode="edge")],
    ),
    "v2": (
        v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), FLOATS, v2.Normalize([0.5] * 3, [0.25] * 3)]),
        [v2.ToImage(), FLOATS, v2.Normalize([0.5] * 3, [0.25] * 3)],
    ),
    "v2, work on bytes": (
        v2.Compose([v2.PILToTensor(), v2.Resize((4, 4)), FLOATS]),
        [v2.PILToTensor(), v2.Resize((4, 4)), FLOATS],
    ),
    "random ones with what they hold": (
        T.Compose(
            [
                T.RandomApply([Darker()]),
                T.RandomChoice([FLIP, T.ColorJitter(0.5)]),
                T.RandomOrder([FLIP, T.ColorJitter(0.5)]),
                T.RandAugment(),
                TENSOR,
                T.RandomErasing(p=0.9),
            ]
        ),
        [TENSOR],
    ),
    "a kind of flip": (T.Compose([OwnFlip(), TENSOR]), [TENSOR]),
    "nothing left to chance": (
        T.Compose(
            [
                T.RandomHorizontalFlip(p=1),
                T.RandomRotation((90, 90)),
                T.GaussianBlur(3, sigma=1.0),
                T.RandomApply([Darker()], p=1),
                TENSOR,
            ]
        ),
        [T.functional.hflip, lambda i: T.functional.rotate(i, 90), T.GaussianBlur(3, sigma=1.0), Darker(), TENSOR],
    ),
    "never": (
        T.Compose(
            [T.RandomVerticalFlip(p=0), T.RandomApply([Darker()], p=0), T.ColorJitter(), T.RandomCrop(8), TENSOR]
        ),
        [TENSOR],
    ),
    "resized to a size": (
        T.Compose([T.Resize((6, 6)), T.CenterCrop(4), FLIP, TENSOR]),
        [T.Resize((6, 6)), T.CenterCrop(4), TENSOR],
    ),
    "gray": (T.Compose([T.Grayscale(), FLIP, TENSOR]), [T.Grayscale(), TENSOR]),
    "own composition": (OwnCompose([Darker(), TENSOR]), [Darker(), TENSOR]),
    "pictures": (None, []),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_model_is_given_what_the_host_shows_it(name: str) -> None:
    transform, steps = EXACT[name]
    data = Benign(transform)
    module = network()
    expected = shown_to_the_model(steps)
    module(expected)
    case = adapter.read_case(data, model=module)
    torch.testing.assert_close(given_to_the_model(case), expected, atol=2e-6, rtol=1e-5)
    assert (
        case.train is not None and case.train.labels.tolist() == LABELS and case.train.classes == ("ant", "bee", "cat")
    )


PLACED = {
    name: EXACT[name]
    for name in EXACT
    if isinstance(EXACT[name][0], T.Compose | v2.Compose) and name != "own composition"
}


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("last", [False, True])
def test_poison_goes_through_the_same_with_its_trigger(name: str, last: bool) -> None:
    transform, steps = PLACED[name]
    place = len(transform.transforms) if last else 0
    data = Poisoned(transform, place)
    expected = shown_to_the_model(steps, AddCorner(), len(steps) if last else 0)
    module = network()
    module(expected)
    try:
        case = adapter.read_case(data, model=module)
    except InputError as error:  # a white corner behind a normalisation may leave [0, 1]: no other reason
        assert last and normalisation_in(steps) and "out of range" in str(error)
        return
    torch.testing.assert_close(given_to_the_model(case), expected, atol=2e-6, rtol=1e-5)
    assert case.truth is not None and set(np.flatnonzero(case.truth.poison)) == POISON


def test_a_trigger_of_a_kind_that_the_host_also_uses_is_told_by_its_settings() -> None:
    data = Poisoned(T.Compose([T.ColorJitter(0.5), T.Pad(1), TENSOR]), 1, T.Pad(1, fill=255))
    data.transform.transforms.insert(0, T.Pad(1, fill=9))  # the poison part has an older transform: same size
    case = adapter.read_case(data)
    assert case.train is not None
    found = case.train.read(slice(None))
    assert (found[1, 1, 1:-1] == 255).all() and (found[0, 1, 1:-1] == 9).all() and (found[:, 0] == 0).all()


def test_what_was_left_out_is_told() -> None:
    case = adapter.read_case(Benign(EXACT["pad"][0]), clean=Benign(T.Compose([T.Pad(2), TENSOR])))
    assert case.notes == ("train: read without RandomCrop",)
    d3 = adapter.D3(Benign(T.Compose([FLIP, TENSOR])), model=network(), epochs=1)
    d3.model(shown_to_the_model([TENSOR]))
    d3.repair({"device": "CPU", "batch_size": 4, "epochs": 1})
    assert "clean: read without RandomHorizontalFlip" in d3.outcome.notes


REFUSED = {
    "own random class": (T.Compose([Jitter(), TENSOR]), "a transform is random", "Jitter"),
    "a generator inside": (T.Compose([OwnGenerator(), TENSOR]), "a transform is random", "OwnGenerator"),
    "random lambda": (T.Compose([T.Lambda(Jitter(0.4)), TENSOR]), "a transform is random", "Lambda("),
    "dropout": (T.Compose([TENSOR, nn.Dropout(0.5)]), "a transform is random", "Dropout"),
    "random composition": (OwnCompose([Jitter(), TENSOR]), "a transform is random", "OwnCompose"),
    "random, deep inside": (
        T.Compose([T.Compose([v2.Compose([TENSOR, nn.Sequential(nn.Dropout(0.5))])])]),
        "is random",
        "Dropout",
    ),
    "rarely random": (T.Compose([Jitter(0.1), TENSOR]), "random|change from one access", "Jitter"),
    "crop to the size of the model": (T.Compose([T.RandomCrop(6), TENSOR]), "another size", "RandomCrop"),
    "resized crop": (T.Compose([T.RandomResizedCrop(4), FLIP, TENSOR]), "another size", "RandomResizedCrop"),
    "size inside": (T.Compose([T.RandomApply([T.Resize(4)], p=0.999999), TENSOR]), "another size", "RandomApply"),
    "0..255": (v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32)]), "out of range", "255"),
    "0..255 by hand": (T.Compose([TENSOR, T.Lambda(lambda x: x * 255)]), "out of range", "255"),
    "normalised by hand": (T.Compose([TENSOR, T.Lambda(lambda x: (x - 0.5) / 0.1)]), "out of range", "normalisation"),
    "five crops": (
        T.Compose([T.FiveCrop(4), T.Lambda(lambda c: torch.stack([TENSOR(i) for i in c]))]),
        "four axes|layout",
        "",
    ),
    "fails": (T.Compose([T.Lambda(lambda x: x.no_such_thing)]), "failed at a sample", "AttributeError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_left_out_or_read_is_refused_by_name(name: str) -> None:
    transform, message, named = REFUSED[name]
    random.seed(1)
    with pytest.raises(InputError, match=message) as caught:
        adapter.read_case(Benign(transform), model=None)
    assert named in str(caught.value) and caught.value.where is not None


def test_a_random_transform_of_a_wholly_poisoned_set_is_refused_too() -> None:
    data = Poisoned(T.Compose([Jitter(), TENSOR]))
    data.poisoned_set = frozenset(range(N))
    with pytest.raises(InputError, match="a transform is random"):
        adapter.read_case(test_poisoned=data)


def test_a_trigger_may_be_drawn_anew_at_every_access() -> None:
    class AddNoise:
        def __call__(self, image: Any) -> Any:
            return torch.rand_like(image)

    data = Poisoned(T.Compose([FLIP, TENSOR]), 2, AddNoise())
    case = adapter.read_case(data)
    assert case.train is not None
    rest = [i for i in range(N) if i not in POISON]
    np.testing.assert_allclose(case.train.read(slice(None))[rest], PIXELS[rest] / np.float32(255), atol=1e-7)


class Wrapper(Dataset[Any]):
    """A data set that keeps another inside, with whatever it does at random."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]


def test_randomness_inside_a_wrapper_is_refused_and_none_is_read() -> None:
    with pytest.raises(InputError, match="change from one access"):
        adapter.read_case(Wrapper(Benign(T.Compose([T.ColorJitter(0.5), TENSOR]))))
    plain = adapter.read_case(Wrapper(Benign(T.Compose([Darker(), TENSOR]))))
    assert plain.train is not None
    np.testing.assert_allclose(plain.train.read(slice(None)), (PIXELS // 2) / np.float32(255), atol=1e-7)


def test_concatenations_are_taken_apart_too() -> None:
    chain = T.Compose([FLIP, TENSOR])
    both = ConcatDataset([Subset(Poisoned(chain), [5, 0]), Benign(chain)])
    case = adapter.read_case(Subset(both, [0, 1, *range(4, 14)]), clean=Subset(Benign(chain), [3]))
    assert case.train is not None and case.truth is not None
    assert np.flatnonzero(case.truth.poison).tolist() == [0]
    expected = PIXELS[[5, 0, *range(2, 12)]].copy()
    expected[0, -2:, -2:] = 255
    assert (case.train.read(slice(None)) == expected).all() and case.train.classes == ("ant", "bee", "cat")
    assert case.truth.original_labels.tolist() == [2, 0, *LABELS[2:]]  # type: ignore[union-attr]
    with pytest.raises(InputError, match="negative positions"):
        adapter.read_case(Subset(Poisoned(chain), [-1, 0]))


def test_data_sets_that_show_a_model_other_images_are_refused() -> None:
    plain, moved = Benign(T.Compose([TENSOR])), Benign(T.Compose([TENSOR, NORMALIZE]))
    module = network()
    module(torch.zeros(1, 3, EDGE, EDGE))
    with pytest.raises(InputError, match="normalise differently"):
        adapter.read_case(plain, clean=moved, model=module)
    with pytest.raises(InputError, match="parts of the dataset normalise differently"):
        adapter.read_case(ConcatDataset([plain, moved]), model=module)
    case = adapter.read_case(plain, clean=moved, model=module, mean=(0.5,) * 3, std=(0.5,) * 3)  # said for all
    assert (case.train.read(slice(None)) == case.clean.read(slice(None))).all()  # type: ignore[union-attr]
    assert adapter.read_case(plain, clean=moved).model is None


def test_data_sets_of_torchvision_that_keep_both_transforms_together() -> None:
    from torchvision.datasets import VisionDataset

    class Both(VisionDataset):
        def __init__(self, **options: Any) -> None:
            super().__init__(".", **options)
            self.targets = LABELS

        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> Any:
            return self.transforms(Image.fromarray(PIXELS[index]), LABELS[index])  # type: ignore[misc]

    data = Both(transform=T.Compose([T.ColorJitter(0.9), FLIP, TENSOR]))
    case = adapter.read_case(data)
    assert case.train is not None and (case.train.read(slice(None)) == PIXELS).all()
    assert type(data.transforms.transform) is T.Compose


def test_the_hosts_transforms_and_generators_stay_as_they_are() -> None:
    class AddDrawn:
        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

        def __call__(self, image: Any) -> Any:
            return image

    data = Poisoned(T.Compose([FLIP, Darker(), TENSOR]), 0, AddDrawn())
    before = list(data.transform.transforms), list(data.poisoned_transform.transforms)
    adapter.read_case(data)
    assert (list(data.transform.transforms), list(data.poisoned_transform.transforms)) == before


# the pieces


def test_compositions_are_flattened_and_nothing_else() -> None:
    pad, apply = T.Pad(1), T.RandomApply([T.Pad(1)])
    assert steps_of(T.Compose([v2.Compose([pad]), nn.Sequential(nn.Identity()), apply]))[0] is pad
    assert steps_of(apply) == [apply] and steps_of(None) == [] and steps_of(darker) == [darker]
    own = OwnCompose([pad])
    assert steps_of(own) == [own]


def test_normalisations_add_up() -> None:
    x = torch.rand(3, 2, 2)
    first, second = T.Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), T.Normalize((0.4,), (2.0,))
    mean, std = normalisation_in([TENSOR, first, FLIP, second])  # type: ignore[misc]
    torch.testing.assert_close(T.Normalize(mean, std)(x), second(first(x)))
    assert normalisation_in([TENSOR]) is None
    with pytest.raises(InputError, match="do not fit each other"):
        normalisation_in([first, T.Normalize((0.5,) * 4, (0.5,) * 4)])


def test_triggers_are_what_was_put_in() -> None:
    benign = [T.Pad(1), FLIP, Darker(), TENSOR]
    poisoned = [AddCorner(), *copy.deepcopy(benign[:2]), T.Pad(2), *copy.deepcopy(benign[2:]), AddCorner()]
    assert marked(poisoned, benign) == [None, 0, 1, None, 2, 3, None]
    assert marked([T.Pad(2), TENSOR], []) == [None, None] and marked([], benign) == []


@pytest.mark.parametrize(
    "step",
    [
        T.RandomResizedCrop(8),
        T.TrivialAugmentWide(),
        T.AugMix(),
        T.AutoAugment(),
        T.RandomPerspective(p=1),
        T.RandomAffine(30),
        T.ElasticTransform(),
        T.RandomOrder([T.RandomInvert(), T.Pad(1)]),
        v2.RandomGrayscale(p=0.2),
        v2.RandomPhotometricDistort(p=1),
        v2.ScaleJitter((8, 8)),
        v2.JPEG((5, 95)),
        v2.RandomZoomOut(p=1),
        v2.RandomApply([v2.GaussianBlur(3, sigma=1.0)]),
        T.GaussianBlur(3),
        v2.RandomChannelPermutation(),
    ],
)
def test_random_transforms_of_torchvision_are_known(step: Any) -> None:
    pictures = [Image.fromarray(np.kron(each, np.ones((4, 4, 1), np.uint8))) for each in PIXELS[:3]]
    kept, left = without_random([step, T.Pad(1)], pictures, "transform")
    assert left == [step] and [name_of(each) for each in kept] == ["Pad"]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("chain", [[TENSOR], [TENSOR, NORMALIZE]])
def test_trojanvision_undoes_what_its_transform_does_and_not_what_an_argument_says(normalize: bool, chain: Any) -> None:
    """Its transform ``bit`` takes no notice of ``--dataset_normalize``."""
    data = SimpleNamespace(
        norm_par={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}, normalize=normalize, num_classes=CLASSES,
        get_transform=lambda mode: T.Compose(list(chain)),
    )  # fmt: skip
    behaviour = SimpleNamespace(dataset=data, _seed=0)
    behaviour._normalisation = lambda: Behaviour._normalisation(behaviour)  # type: ignore[arg-type]
    found = Behaviour._read(behaviour, Benign(data.get_transform("valid")), "set")  # type: ignore[arg-type]
    np.testing.assert_allclose(found.read(slice(None)), PIXELS / np.float32(255), atol=1e-6)
