"""What a defense is handed leads nowhere else: the seal, and the walk that looks for ways around it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import operator
import pickle
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elixir_plugin import Case, Context, Defense, ImageSet, Outcome, Truth
from elixir_plugin.core.images import LazyImages
from elixir_plugin.core.mirroring import decide, decision
from elixir_plugin.defense import Card
from elixir_plugin.testing import leaks, tiny_case
from elixir_plugin.testing.reachable import reachable

CASE = tiny_case()
assert CASE.truth is not None and CASE.test is not None and CASE.train is not None
POISON, TEST, TRAIN = CASE.truth.poison, CASE.test, CASE.train
N = len(TRAIN)


# the walk


class Slotted:
    __slots__ = ("__kept", "open")

    def __init__(self, kept: Any) -> None:
        self.__kept, self.open = kept, None


@dataclasses.dataclass
class Record:
    kept: Any


class Holder:
    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def method(self) -> None: ...


def in_a_closure(kept: Any) -> Any:
    return lambda: kept


def in_a_generator(kept: Any) -> Any:
    def numbers() -> Iterator[int]:
        held = kept
        yield 1
        yield len(held)

    running = numbers()
    next(running)
    return running


def in_a_local_class(kept: Any) -> Any:
    class Local:
        held = kept

    return Local()


def in_a_weak_reference(kept: Any) -> Any:
    holder = Holder(kept)
    return [weakref.ref(holder), lambda: None] if KEEP.append(holder) is None else None


def in_a_hook(kept: Any) -> Any:
    module = torch.nn.Linear(1, 1)
    module.register_forward_hook(lambda *_: kept and None)
    return module


def in_an_object_array(kept: Any) -> Any:
    array = np.empty(1, object)
    array[0] = kept
    return array


KEEP: list[Any] = []
PLACES: dict[str, Callable[[Any], Any]] = {
    "attribute": Holder,
    "dataclass": Record,
    "private slot": Slotted,
    "closure": in_a_closure,
    "default": lambda kept: eval("lambda x=kept: x", {"kept": kept}),
    "keyword default": lambda kept: eval("lambda *, x=kept: x", {"kept": kept}),
    "function attribute": lambda kept: setattr(f := in_a_closure(None), "kept", kept) or f,
    "bound method": lambda kept: Holder(kept).method,
    "bound built-in": lambda kept: [kept].append,
    "partial": lambda kept: functools.partial(print, kept),
    "partial keyword": lambda kept: functools.partial(print, end=kept),
    "cached function": lambda kept: functools.lru_cache(in_a_closure(kept)),
    "dictionary key": lambda kept: {Holder(kept): 1},
    "nested containers": lambda kept: [({"a": (kept,)},)],
    "generator": in_a_generator,
    "map": lambda kept: map(str, [kept]),
    "chain": lambda kept: itertools.chain([1], [kept]),
    "iterator": lambda kept: iter([1, kept]),
    "getter": operator.itemgetter,
    "weak reference": in_a_weak_reference,
    "local class": in_a_local_class,
    "hook of a module": in_a_hook,
    "module attribute": lambda kept: setattr(m := torch.nn.ReLU(), "kept", kept) or m,
    "object array": in_an_object_array,
    "type of an array": lambda kept: np.zeros(2, np.dtype("u1", metadata={"kept": kept})),
    "exception": lambda kept: ValueError(Holder(kept)),
    "property of a local class": lambda kept: in_a_local_class(property(in_a_closure(kept))),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_to_hide_is_looked_at(place: str) -> None:
    secret = Holder("secret")
    hidden = PLACES[place](secret)
    assert any(found is secret for _, found in reachable(hidden)), place


def test_a_concealed_reader_is_not_looked_through() -> None:
    secret = Holder("secret")
    images = LazyImages(lambda i: np.full((2, 2, 1), len(str(secret)) % 9 + i, np.uint8), 3, (2, 2, 1))
    assert not any(found is secret for _, found in reachable(images)) and images[:2].shape == (2, 2, 2, 1)


def test_a_walk_through_a_circle_ends() -> None:
    circle: list[Any] = [1]
    circle.append({"self": circle})
    assert len([how for how, found in reachable(circle) if found is circle]) == 1


# what counts as a leak

GIVEN_AWAY: dict[str, Callable[[Path], Any]] = {
    "the truth": lambda folder: CASE.truth,
    "the mask": lambda folder: POISON,
    "a copy of the mask": lambda folder: POISON.copy(),
    "the mask as numbers": lambda folder: POISON.astype(np.float32),
    "the mask turned round": lambda folder: (~POISON).tolist(),
    "the mask as a tensor": lambda folder: torch.from_numpy(POISON.copy()),
    "positions": lambda folder: np.flatnonzero(POISON),
    "positions as a set": lambda folder: set(np.flatnonzero(POISON).tolist()),
    "positions as keys": lambda folder: dict.fromkeys(np.flatnonzero(POISON).tolist(), "png"),
    "two kinds of files": lambda folder: [Path("bd" if bad else "clean") / f"{i}.png" for i, bad in enumerate(POISON)],
    "two kinds of suffix": lambda folder: [f"{i}.{'png' if bad else 'jpg'}" for i, bad in enumerate(POISON)],
    "two types": lambda folder: [b"" if bad else 1.5 for bad in POISON],
    "some that are missing": lambda folder: [Holder(0) if bad else None for bad in POISON],
    "original labels": lambda folder: CASE.truth.original_labels.copy(),  # type: ignore[union-attr]
    "the test set": lambda folder: TEST,
    "test images": lambda folder: TEST.images,
    "a row of the test images": lambda folder: TEST.images[3:4],
    "a tensor over the test images": lambda folder: torch.from_numpy(np.asarray(TEST.images).base)[5],  # type: ignore[arg-type]
    "triggered samples": lambda folder: CASE.test_poisoned.samples,  # type: ignore[union-attr]
    "facts": lambda folder: CASE.origin.facts,
    "names": lambda folder: ImageSet(TRAIN.images, TRAIN.labels, 4, [f"{i}.png" for i in range(N)]),
    "ids": lambda folder: TRAIN.subset([4, 2]),
    "the case": lambda folder: CASE,
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("what", GIVEN_AWAY)
def test_what_gives_the_truth_away_is_noticed(what: str, tmp_path: Path) -> None:
    visible = CASE.visible()
    assert leaks(CASE, (visible, Context())) == []
    assert leaks(CASE, [visible, Holder(GIVEN_AWAY[what](tmp_path))]) != []


def test_the_file_of_a_memory_map_and_the_path_of_a_case_are_noticed(tmp_path: Path) -> None:
    np.save(tmp_path / "test.npy", TEST.read(slice(None)))
    memory = np.load(tmp_path / "test.npy", mmap_mode="r")
    case = dataclasses.replace(
        CASE,
        test=TEST.replace(images=memory),
        origin=dataclasses.replace(CASE.origin, path=str(tmp_path / "record")),
    )
    assert leaks(case) == []
    for text in (str(tmp_path / "test.npy"), tmp_path / "record" / "attack_result.pt", f"read {tmp_path}/record"):
        assert len(leaks(case, Holder(text))) == 1


@pytest.mark.parametrize("harmless", [TRAIN.labels, [Holder(i) for i in range(N)], list(range(N)), np.zeros(N, bool)])
def test_what_says_nothing_is_no_leak(harmless: Any) -> None:
    assert leaks(CASE, Holder(harmless)) == []


# the seal


def test_a_part_of_an_array_is_copied_and_a_whole_one_is_not() -> None:
    whole = TRAIN.read(slice(None))
    alone, part = (Case(train=ImageSet(pixels, TRAIN.labels[: len(pixels)], 4)) for pixels in (whole, whole[:50]))
    turned = Case(train=ImageSet(whole[::-1], TRAIN.labels, 4))
    seen = [each.visible().train for each in (alone, part, turned)]
    shared = [each is not None and np.shares_memory(each.images, whole) for each in seen]
    assert shared == [True, False, False]
    assert seen[2] is not None and np.array_equal(seen[2].read(slice(None)), whole[::-1])


def test_a_subclass_and_the_notes_of_a_type_are_left_behind() -> None:
    class Noted(np.ndarray):  # type: ignore[type-arg]
        pass

    noted = TRAIN.read(slice(None)).view(Noted)
    noted.poison = POISON  # type: ignore[attr-defined]
    typed = TRAIN.read(slice(None)).astype(np.dtype("u1", metadata={"poison": POISON}))
    for pixels in (noted, typed):
        case = dataclasses.replace(CASE, train=TRAIN.replace(images=pixels))
        assert leaks(case) == [] and case.visible().train.fingerprint() == TRAIN.fingerprint()  # type: ignore[union-attr]


def test_a_memory_map_stays_one_and_its_file_is_not_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", TRAIN.read(slice(None)))
    memory = np.load(tmp_path / "a.npy", mmap_mode="r")
    for pixels in (memory, memory[:60], np.asarray(memory)):
        given = ImageSet(pixels, TRAIN.labels[: len(pixels)], 4)
        seen = Case(train=given).visible().train
        assert seen is not None and isinstance(seen.images, LazyImages) and seen.fingerprint() == given.fingerprint()
        assert not any("a.npy" in str(found) for _, found in reachable(seen) if isinstance(found, str | Path))
        first = seen.images[0:2]
        assert type(first) is np.ndarray and first.base is None and first.flags.writeable


def test_a_reader_of_a_strangers_own_class_is_read_through() -> None:
    class Own:
        shape, dtype = TRAIN.images.shape, TRAIN.images.dtype

        def __init__(self) -> None:
            self.poison = POISON

        def __getitem__(self, index: Any) -> Any:
            return TRAIN.images[index]

    case = dataclasses.replace(CASE, train=TRAIN.replace(images=Own()))
    assert leaks(case) == [] and case.visible().train.fingerprint() == TRAIN.fingerprint()  # type: ignore[union-attr]


def test_lazy_images_are_decoded_once_for_case_and_defense() -> None:
    pixels, read = TRAIN.read(slice(None)), []
    lazy = TRAIN.replace(images=LazyImages(lambda i: read.append(i) or pixels[i], N, pixels.shape[1:]))
    case = Case(train=lazy)
    for part in (case.visible().train, case.train, case.visible().visible().train):
        assert part is not None
        assert part.content_hashes().tolist() == TRAIN.content_hashes().tolist()
        assert part.fingerprint() == TRAIN.fingerprint()
    assert len(read) == 2 * N


def test_lazy_images_can_be_copied_but_not_pickled() -> None:
    lazy = LazyImages(lambda i: np.full((2, 2, 1), i, np.uint8), 4, (2, 2, 1))
    for each in (copy.copy(lazy), copy.deepcopy(lazy), copy.deepcopy([lazy])[0]):
        assert each[1:3][:, 0, 0, 0].tolist() == [1, 2]
    with pytest.raises(TypeError, match=r"pickle ImageSet\.load"):
        pickle.dumps(lazy)
    images = ImageSet(lazy, [0, 0, 0, 0], 1)
    assert pickle.loads(pickle.dumps(images.load())).fingerprint() == images.fingerprint()


def test_a_model_comes_without_what_was_hung_on_it() -> None:
    assert CASE.model is not None
    model = copy.copy(CASE.model)
    model.notes = ("read with care",)
    object.__setattr__(model, "target", CASE.truth)
    seen = dataclasses.replace(CASE, model=model).visible().model
    assert seen is not None and not hasattr(seen, "target") and seen.notes == model.notes
    assert seen.module is model.module and seen.fingerprint() == model.fingerprint()


def test_a_case_of_another_class_comes_without_its_extras() -> None:
    @dataclasses.dataclass(frozen=True)
    class Richer(Case):
        poison: Any = None

    richer = Richer(**{field.name: getattr(CASE, field.name) for field in dataclasses.fields(Case)}, poison=POISON)
    object.__setattr__(richer, "also", POISON)
    assert type(richer.visible()) is Case and leaks(richer) == []


class Painter(Defense):
    """Gives the samples back, changed or as they came."""

    name = "painter"
    kind = "purify"
    needs = frozenset({"train"})
    card = Card("Painter", "none", 2026, "paints", "nothing", "for tests")
    paint: bool

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None and case.train.names is None
        assert case.train.ids.tolist() == list(range(len(case.train)))
        pixels = case.train.read(slice(None)) // 2
        return Outcome(train=case.train.replace(images=pixels) if self.paint else case.train)


@pytest.mark.parametrize("paint", [True, False])
def test_the_outcome_has_names_and_ids_of_the_case(paint: bool) -> None:
    given = ImageSet(TRAIN.images, TRAIN.labels, 4, [f"{i}.png" for i in range(N)], np.arange(N)[::-1] * 3)
    painter = Painter()
    painter.paint = paint
    found = painter.run(Case(train=given)).train
    assert found is not None and found.names == given.names and found.ids.tolist() == given.ids.tolist()
    expected = given.read(slice(None)) // (2 if paint else 1)
    assert np.array_equal(found.read(slice(None)), expected) and (found is given) is not paint


def test_what_was_decided_for_a_case_holds_for_what_a_defense_sees() -> None:
    context = Context()
    found = decide(CASE.visible(), context)
    assert decision(CASE, context) is found and decision(CASE.visible(), context) is found
    assert decision(dataclasses.replace(CASE, clean=TRAIN), context) is None
    assert leaks(CASE, context) == []


def test_a_preview_and_an_estimate_see_no_more(tmp_path: Path) -> None:
    handed: list[Any] = []

    class Looker(Painter):
        name = "looker"

        def check(self, case: Case) -> None:
            handed.append(case)

    Looker().refuse(CASE)
    Looker().estimate(CASE.visible(), Context(work_dir=tmp_path))
    assert len(handed) == 2 and leaks(CASE, handed) == []


def test_a_truth_without_poison_says_nothing() -> None:
    case = dataclasses.replace(CASE, truth=Truth(np.zeros(N, bool), kind="none"))
    assert leaks(case) == [] and leaks(case, Holder(np.zeros(N))) == []
