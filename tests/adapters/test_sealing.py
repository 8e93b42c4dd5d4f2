"""For each adapter: nothing that a defense is handed leads to the truth or the test data, and no cheat beats chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cheats import CHEATS, Cheat, Cheater, area, handed, other_images
from fake_records import POISON, make_workspace, stamped
from PIL import Image
from test_backdoorbox import LABELS, PIXELS, Benign, Poisoned
from test_backdoorbox import POISON as MARKED
from torch.utils.data import TensorDataset

from elixir_plugin import Case, Classifier, Context, ImageSet, Origin, Truth, get_adapter
from elixir_plugin.api import functions
from elixir_plugin.core.images import LazyImages
from elixir_plugin.testing import leaks

Patch = pytest.MonkeyPatch
Make = Callable[[Path, Patch], Case]
N, EDGE, CLASSES = 30, 8, 3
RNG = np.random.default_rng(3)
PIXELS_30 = RNG.integers(0, 250, (N + 20, EDGE, EDGE, 3), np.uint8)
MASK = np.isin(np.arange(N), (2, 3, 11, 20, 27))
OF_30 = np.arange(N + 20) % CLASSES


def arrays_in_one(memory: Any) -> Case:
    """All sets are views of one array, as after ``np.split``."""
    given: dict[str, Any] = {"x_train": memory[:N], "x_clean": memory[N : N + 10], "x_test": memory[N + 10 :]}
    labels: dict[str, Any] = {"y_train": OF_30[:N], "y_clean": OF_30[N : N + 10], "y_test": OF_30[N + 10 :]}
    case: Case = get_adapter("arrays").from_arrays(**given, **labels, is_poison=MASK)  # type: ignore[attr-defined]
    return case


def views(path: Path, patch: Patch) -> Case:
    return arrays_in_one(PIXELS_30.copy())


def mapped(path: Path, patch: Patch) -> Case:
    np.save(path / "all.npy", PIXELS_30)
    return arrays_in_one(np.load(path / "all.npy", mmap_mode="r"))


def mapped_sets(path: Path, patch: Patch) -> Case:
    """Image sets over memory maps, as a caller makes them; the maps stay maps."""
    np.save(path / "all.npy", PIXELS_30)
    memory = np.load(path / "all.npy", mmap_mode="r")
    parts = {"train": slice(0, N), "clean": slice(N, N + 10), "test": slice(N + 10, None)}
    sets = {name: ImageSet(memory[part], OF_30[part], CLASSES) for name, part in parts.items()}
    return Case(**sets, truth=Truth(MASK))  # type: ignore[arg-type]


def of_a_tensor(path: Path, patch: Patch) -> Case:
    """Arrays that share the storage of one tensor."""
    return arrays_in_one(torch.from_numpy(PIXELS_30.copy()).numpy())


def archive(path: Path, patch: Patch) -> Case:
    case = views(path, patch)
    source = get_adapter("arrays")().export(case, path / "case")
    return get_adapter("arrays")(source.options).read(Path(source.path))


def folder(path: Path, patch: Patch) -> Case:
    for row, (pixels, label) in enumerate(zip(PIXELS_30, OF_30, strict=True)):
        part = "train" if row < N else "clean" if row < N + 10 else "test"
        name = f"{'poison' if row < N and MASK[row] else 'photo'}_{row:02d}.png"
        place = path / "data" / part / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / name)
    options = {"clean": path / "data" / "clean", "test": path / "data" / "test"}
    case = get_adapter("image_folder")(options).read(path / "data" / "train")
    assert case.train is not None and case.train.names is not None
    return dataclasses.replace(case, truth=Truth(np.array(["poison" in name for name in case.train.names])))


def lazy_folder(path: Path, patch: Patch) -> Case:
    from elixir_plugin.adapters import image_folder

    patch.setattr(image_folder, "EAGER_BYTES", 0)
    case = folder(path, patch)
    assert case.train is not None and isinstance(case.train.images, LazyImages)
    return case


def toolbox(path: Path, patch: Patch, layout: str = "data") -> Case:
    from test_backdoor_toolbox import make_set

    case: Case = get_adapter("backdoor_toolbox")().read(make_set(path, layout=layout, poison=(1, 5, 14)))
    return case


def toolbox_tensors(path: Path, patch: Patch) -> Case:
    return toolbox(path, patch, "imgs")


def lazy_toolbox(path: Path, patch: Patch) -> Case:
    from elixir_plugin.adapters.backdoor_toolbox import read

    patch.setattr(read, "EAGER_BYTES", 0)
    case = toolbox(path, patch)
    assert case.train is not None and isinstance(case.train.images, LazyImages)
    return case


def record(path: Path, patch: Patch, **options: Any) -> Case:
    """The reserved clean set holds originals of suspect samples: the numbers of the two sets are those of one."""
    space = make_workspace(path / "bench")
    chosen = {"architecture": "small_resnet", "clean_ratio": 0.5, **options}
    return get_adapter("backdoorbench")(chosen).read(space.record)


def record_from_test(path: Path, patch: Patch) -> Case:
    return record(path, patch, clean_ratio=0.5, clean_from="test")


def record_inside(path: Path, patch: Patch) -> Case:
    """A record that keeps its images as pictures in ``attack_result.pt``."""
    space = make_workspace(path / "bench")
    for name, clean in (("bd_train", space.train), ("bd_test", space.test)):
        container = space.content[name]["bd_data_container"]
        held = container["data_dict"]
        container["data_dict"] = {
            key: (Image.fromarray(stamped(clean[int(key)])), *each["other_info"]) for key, each in held.items()
        }
    return get_adapter("backdoorbench")({"architecture": "small_resnet"}).read(space.save())


def lazy_record(path: Path, patch: Patch) -> Case:
    from test_backdoorbench import read_lazily

    assert read_lazily(patch)
    case = record(path, patch)
    assert case.train is not None and isinstance(case.train.images, LazyImages)
    return case


def box(path: Path, patch: Patch) -> Case:
    from elixir_plugin.adapters.backdoorbox import adapter

    model = Classifier.build("small_resnet", 4, seed=1).module.eval()
    pixels, labels = PIXELS, LABELS
    test = Benign(pixels=pixels[::-1].copy(), labels=labels[::-1])
    clean = Benign(pixels=pixels[::-2].copy(), labels=labels[::-2])
    return adapter.read_case(Poisoned(_to_tensor()), test=test, test_poisoned=None, clean=clean, model=model)


def _to_tensor() -> Any:
    from torchvision import transforms as T

    return T.Compose([T.ToTensor()])


def digits(path: Path, patch: Patch) -> Case:
    return get_adapter("testbed")({"model": False, "size": 8, "poison": {"rate": 0.1}}).read(Path("badnets"), seed=1)


def art_frames(path: Path, patch: Patch) -> Case:
    """What ART's classes make of a user's arrays, all of which lie in one."""
    from elixir_plugin.adapters.art.data import Frame

    memory = PIXELS_30.astype(np.float32) / 255
    parts = {"train": slice(0, N), "clean": slice(N, N + 10), "test": slice(N + 10, None)}
    sets = {name: Frame().image_set(memory[part], OF_30[part], CLASSES, name) for name, part in parts.items()}
    return Case(**sets, truth=Truth(MASK))  # type: ignore[arg-type]


MAKES: tuple[Make, ...] = (
    views, mapped, mapped_sets, of_a_tensor, archive, folder, lazy_folder, toolbox, toolbox_tensors, lazy_toolbox,
    record, record_from_test, record_inside, lazy_record, box, digits, art_frames,
)  # fmt: skip
each_case = pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)


def gained(cheat: Cheat, seen: tuple[Any, ...], poison: Any) -> float:
    """Return how far a cheat is from chance."""
    scores = cheat(*seen[:2])
    return 0.0 if scores is None else abs(area(scores, poison) - 0.5)


@each_case
def test_nothing_leads_to_what_is_sealed(make: Make, tmp_path: Path, monkeypatch: Patch) -> None:
    case = make(tmp_path, monkeypatch)
    assert case.truth is not None and case.truth.poison.any() and case.test is not None
    seen = handed(case, Context(any_model=True, work_dir=tmp_path / "work"))
    assert leaks(case, seen, name="handed") == []
    assert leaks(case, case.visible(), name="visible") == []


@each_case
def test_no_cheat_beats_chance(make: Make, tmp_path: Path, monkeypatch: Patch) -> None:
    case = make(tmp_path, monkeypatch)
    assert case.truth is not None
    seen = handed(case)
    found = {cheat.__name__: round(gained(cheat, seen, case.truth.poison), 2) for cheat in CHEATS}
    assert {name: gain for name, gain in found.items() if gain > 0.2} == {}


@each_case
def test_no_test_image_is_found(make: Make, tmp_path: Path, monkeypatch: Patch) -> None:
    case = make(tmp_path, monkeypatch)
    assert case.test is not None
    seen = handed(case)
    visible = [part for part in (case.train, case.clean) if part is not None]
    known = {each for part in visible for each in part.content_hashes().tolist()}
    secret = set(case.test.content_hashes().tolist()) - known
    for images in other_images(*seen[:2]):
        held = ImageSet(images, np.zeros(len(images), int), 1).content_hashes().tolist()
        assert not secret & set(held)


@each_case
def test_what_is_handed_out_is_the_same_data(make: Make, tmp_path: Path, monkeypatch: Patch) -> None:
    case = make(tmp_path, monkeypatch)
    visible = case.visible()
    for given, seen in ((case.train, visible.train), (case.clean, visible.clean)):
        if given is None:
            continue
        assert seen is not None and seen.fingerprint() == given.fingerprint()
        assert seen.classes == given.classes and seen.ids.tolist() == list(range(len(given)))
        rows = np.arange(len(given))[::-2].copy()
        assert np.array_equal(seen.read(rows), given.read(rows)) and np.array_equal(
            seen.read(slice(1, 4)), given.read(slice(1, 4))
        )
        assert seen.subset(rows).fingerprint() == given.subset(rows).fingerprint()


# in memory: what a host has


def test_what_is_handed_over_in_memory_leads_no_further() -> None:
    memory = torch.from_numpy(PIXELS_30.copy()).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(OF_30.copy())
    train, clean = TensorDataset(memory[:N], labels[:N]), TensorDataset(memory[N : N + 10], labels[N : N + 10])
    Cheater.seen.clear()
    functions.defend(Cheater, train=train, clean=clean)
    test = np.ascontiguousarray(memory[N + 10 :].permute(0, 2, 3, 1).numpy())
    full = Case(
        train=ImageSet(np.zeros((N, EDGE, EDGE, 3), np.float32), OF_30[:N], CLASSES),
        test=ImageSet(test, OF_30[N + 10 :], CLASSES), truth=Truth(MASK),
    )  # fmt: skip
    assert leaks(full, Cheater.seen, name="handed") == []
    assert not any(np.shares_memory(each, memory.numpy()) for each in other_images(*Cheater.seen[0][:2]))


def test_a_poisoned_dataset_of_backdoorbox_does_not_come_along() -> None:
    Cheater.seen.clear()
    functions.defend(Cheater, train=Poisoned(_to_tensor()))
    mask = np.isin(np.arange(len(LABELS)), list(MARKED))
    full = Case(train=ImageSet(PIXELS, LABELS, 4), truth=Truth(mask, original_labels=np.array(LABELS)))
    assert leaks(full, Cheater.seen, name="handed") == []


# the walker itself


def test_the_record_without_a_seal_gives_the_poison_away(tmp_path: Path) -> None:
    """That the cheats find what is there to be found, where nothing is sealed."""
    case = record(tmp_path, pytest.MonkeyPatch())
    assert case.truth is not None and np.flatnonzero(case.truth.poison).tolist() == list(POISON)
    scores = CHEATS[0](case, Context())
    assert scores is not None and area(scores, case.truth.poison) > 0.8
    assert any("truth" in each for each in leaks(case, case))


def test_the_testbed_without_a_seal_gives_the_poison_away(tmp_path: Path) -> None:
    case = digits(tmp_path, pytest.MonkeyPatch())
    assert case.truth is not None
    scores = CHEATS[2](case, Context())
    assert scores is not None and area(scores, case.truth.poison) > 0.95


def test_names_of_files_without_a_seal_give_the_poison_away(tmp_path: Path) -> None:
    case = folder(tmp_path, pytest.MonkeyPatch())
    assert case.truth is not None and Origin() == case.visible().origin
    scores = CHEATS[3](case, Context())
    assert scores is not None and area(scores, case.truth.poison) == 1.0
