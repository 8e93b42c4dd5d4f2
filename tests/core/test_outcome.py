"""Outcomes: the rules they are held against, and the way to disk and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elixir_plugin.core import outcome as outcome_module
from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.core.outcome import Outcome, Verdict, same_outcome
from elixir_plugin.errors import InputError, OutcomeError
from elixir_plugin.io.files import write_json
from elixir_plugin.io.reading import read_json
from elixir_plugin.testing.defenses import tiny_case

N = 96


def full() -> Outcome:
    case = tiny_case()
    assert case.train is not None
    names = [f"{i}.png" for i in range(N)]
    train = ImageSet(case.train.images, case.train.labels, 4, names, np.arange(N) + 100)
    return Outcome(
        scores=np.linspace(0, 1, N),
        flagged=np.arange(N) % 7 == 0,
        train=train,
        kept=np.arange(0, N, 2),
        model=case.model,
        verdict=Verdict(True, 2.5, "clean data: below 2"),
        curves={"loss": [1.0, 0.1]},
        tables={"counts": {"a": 3}, "rows": [[1, None]]},
        timings={"total": 1.5},
        notes=["read this"],
    )


def travelled(outcome: Outcome, folder: Path) -> Outcome:
    outcome.save(folder / "outcome")
    return Outcome.load(folder / "outcome")


@pytest.mark.parametrize(
    "part", ["scores", "flagged", "train", "kept", "model", "verdict", "curves", "tables", "timings", "notes"]
)
def test_each_part_survives_alone(part: str, tmp_path: Path) -> None:
    alone = Outcome(**{part: getattr(full(), part)})
    back = travelled(alone, tmp_path)
    assert same_outcome(alone, back) == []
    assert (back.timings, back.notes) == (alone.timings, alone.notes)


def test_all_parts_survive_together(tmp_path: Path) -> None:
    assert same_outcome(full(), travelled(full(), tmp_path)) == []


def test_a_model_comes_back_ready_for_use(tmp_path: Path) -> None:
    case = tiny_case()
    model = Classifier.build("small_resnet", 4, mean=(0.4, 0.5, 0.6), std=(0.2,)).eval()
    back = travelled(Outcome(model=model), tmp_path).model
    assert case.test is not None and back is not None and not back.training
    assert np.array_equal(back.predict(case.test), model.predict(case.test))


def test_names_and_ids_of_the_sanitised_set_survive(tmp_path: Path) -> None:
    back = travelled(full(), tmp_path).train
    assert back is not None and back.names is not None
    assert back.names[3] == "3.png" and back.ids[3] == 103


def test_float_images_survive_unrounded(tmp_path: Path) -> None:
    images = np.full((2, 3, 3, 1), 0.5004, np.float32)
    back = travelled(Outcome(train=ImageSet(images, [0, 1], 2)), tmp_path).train
    assert back is not None and np.array_equal(back.read(slice(None)), images)


def test_lazy_images_are_decoded_once(tmp_path: Path) -> None:
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    asked: list[int] = []

    def read(position: int) -> Any:
        asked.append(position)
        return images[position]

    back = travelled(Outcome(train=ImageSet(LazyImages(read, 5, (2, 2, 3)), [0] * 5, 1)), tmp_path).train
    assert asked == list(range(5)) and back is not None and np.array_equal(back.read(slice(None)), images)


@pytest.mark.parametrize(
    "empty",
    [
        Outcome(kept=np.zeros(0, np.int64)),
        Outcome(train=ImageSet(np.zeros((0, 2, 2, 3), np.uint8), [], 2)),
        Outcome(scores=np.zeros(0), flagged=np.zeros(0, bool)),
    ],
)
def test_empty_parts_survive(empty: Outcome, tmp_path: Path) -> None:
    assert same_outcome(empty, travelled(empty, tmp_path)) == []


def fail(*_: Any) -> None:
    raise RuntimeError("stopped midway")


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_module, "write_json", fail)  # the last of the files
    with pytest.raises(RuntimeError, match="midway"):
        full().save(tmp_path / "outcome")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full().save(tmp_path / "outcome")
    monkeypatch.setattr(Classifier, "save", fail)
    with pytest.raises(RuntimeError, match="midway"):
        full().save(tmp_path / "outcome")
    monkeypatch.undo()
    assert same_outcome(full(), Outcome.load(tmp_path / "outcome")) == []


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    full().save(tmp_path / "outcome")
    back = travelled(Outcome(flagged=np.ones(3, bool)), tmp_path)
    assert back.model is None and back.train is None


def test_a_sound_outcome_passes() -> None:
    case = tiny_case()
    assert case.train is not None
    Outcome(scores=np.zeros(N), flagged=np.ones(N, bool), train=case.train, kept=np.arange(N)).check(case)


def other_order() -> Outcome:
    train = tiny_case().train
    assert train is not None
    return Outcome(train=train.subset(np.arange(N)[::-1]))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (Outcome(), "empty"),
        (Outcome(scores=np.zeros(N - 1)), r"scores must be \[96\]"),
        (Outcome(scores=np.zeros((N, 1))), r"scores must be \[96\]"),
        (Outcome(scores=np.zeros(N, np.int64)), r"scores must be \[96\]"),
        (Outcome(scores=np.full(N, np.nan)), "finite"),
        (Outcome(scores=np.full(N, np.inf)), "finite"),
        (Outcome(flagged=np.zeros(N)), r"flagged must be \[96\]"),  # type: ignore[arg-type]
        (Outcome(kept=np.array([2, 1])), "ascending"),
        (Outcome(kept=np.array([1, 1])), "ascending"),
        (Outcome(kept=np.array([-1, 1])), "ascending"),
        (Outcome(kept=np.array([N])), "ascending"),
        (Outcome(kept=np.array([1.0])), "ascending"),
        (other_order(), "same order"),
        (Outcome(model=Classifier.build("small_resnet", 5)), "number of classes"),
    ],
)
def test_a_broken_outcome_is_refused(broken: Outcome, rule: str) -> None:
    with pytest.raises(OutcomeError, match=rule):
        broken.check(tiny_case())


def test_without_a_suspect_set_there_is_nothing_to_score() -> None:
    with pytest.raises(OutcomeError, match="scores"):
        Outcome(scores=np.zeros(3)).check(Case(clean=tiny_case().clean))


def changed(**parts: Any) -> Outcome:
    outcome = full()
    for name, value in parts.items():
        setattr(outcome, name, value)
    return outcome


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("scores", np.linspace(0, 1 + 1e-12, N)),
        ("flagged", np.zeros(N, bool)),
        ("kept", None),
        ("train", None),
        ("model", Classifier.build("small_resnet", 4, seed=1)),
        ("verdict", Verdict(False)),
        ("curves", {"loss": [1.0, 0.2]}),
        ("tables", {}),
    ],
)
def test_a_difference_is_named(part: str, value: Any) -> None:
    assert same_outcome(full(), changed(**{part: value})) == [part]


def test_the_static_augmentation_survives_also_under_its_former_name(tmp_path: Path) -> None:
    outcome = Outcome(scores=np.zeros(2), static_augmentation=Augmentation(grayscale=1.0))
    outcome.save(tmp_path / "o")
    assert Outcome.load(tmp_path / "o").static_augmentation == outcome.static_augmentation
    facts = read_json(tmp_path / "o" / "outcome.json")
    facts["baked"] = facts.pop("static_augmentation")
    write_json(tmp_path / "o" / "outcome.json", facts)
    assert Outcome.load(tmp_path / "o").static_augmentation == outcome.static_augmentation


def test_timings_do_not_count_as_a_difference() -> None:
    assert same_outcome(full(), changed(timings={"total": 9.0})) == []


# the set to go on with


def test_the_set_to_go_on_with_follows_what_the_outcome_says() -> None:
    suspect = tiny_case().train
    assert suspect is not None
    dark = suspect.replace(images=np.zeros((N, *suspect.image_shape), np.uint8), labels=np.full(N, 2))
    flagged = np.arange(N) % 3 == 0
    cases = [
        (Outcome(flagged=flagged), suspect, np.flatnonzero(~flagged), suspect),
        (Outcome(flagged=flagged, kept=np.arange(N)), suspect, np.arange(N), suspect),
        (Outcome(kept=np.array([1, 5])), suspect, np.array([1, 5]), suspect),
        (Outcome(train=dark), None, np.arange(N), dark),
        (Outcome(train=dark), suspect, np.arange(N), dark),
        (Outcome(train=dark, flagged=flagged), None, np.flatnonzero(~flagged), dark),
        (Outcome(train=dark, flagged=flagged, kept=np.array([0, 3])), None, np.array([0, 3]), dark),
    ]
    for outcome, given, rows, images in cases:
        left = outcome.sanitised(given)
        assert np.array_equal(left.ids, suspect.ids[rows]) and np.array_equal(left.labels, images.labels[rows])
        assert np.array_equal(left.read(slice(None)), images.read(slice(None))[rows])


def test_an_outcome_without_a_set_to_go_on_with_says_so() -> None:
    suspect = tiny_case().train
    assert suspect is not None
    refused: list[tuple[Outcome, ImageSet | None, str]] = [
        (Outcome(scores=np.zeros(N)), suspect, "says nothing about the samples"),
        (Outcome(kept=np.arange(3)), None, "holds no images"),
        (Outcome(flagged=np.ones(N, bool)), suspect, "nothing is left"),
        (Outcome(train=suspect, kept=np.arange(0)), None, "nothing is left"),
        (Outcome(flagged=np.zeros(N, bool)), suspect.subset(range(5)), "not the set that the defense was given"),
        (Outcome(train=suspect), suspect.subset(range(5)), "not the set that the defense was given"),
    ]
    for outcome, given, says in refused:
        with pytest.raises(InputError, match=says):
            outcome.sanitised(given)


def test_a_missing_index_points_at_the_set_to_go_on_with() -> None:
    suspect = tiny_case().train
    assert suspect is not None
    with pytest.raises(InputError, match=r"outcome\.sanitised\(\)"):
        suspect.subset(None)
