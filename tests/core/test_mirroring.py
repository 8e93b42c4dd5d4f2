"""``flip: auto``: mirrored only where it is known, or shown, to do no harm."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from sklearn.datasets import load_digits

from elixir_plugin import Case, Classifier, Context, ImageSet, Recipe
from elixir_plugin.core.augmentation import Augmentation, augment, draw_augmentation, mirrored
from elixir_plugin.core.mirror_evidence import Evidence, features_of, judge, probe_scores
from elixir_plugin.core.mirroring import decide, decision, settled
from elixir_plugin.core.settings import Settings
from elixir_plugin.errors import SettingsError
from elixir_plugin.testbed.digits import digits
from elixir_plugin.training.fit import learn, untrained

Pixels = np.ndarray[Any, Any]


def drawn(forms: list[Pixels], count: int, seed: int, *, size: int = 16, channels: int = 3) -> ImageSet:
    """Return *count* images, the classes in turn: each form somewhere in a noisy image, in some light colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(forms)
    pixels = rng.uniform(20, 60, (count, 1, 1, channels)) + rng.normal(0, 12, (count, size, size, channels))
    for row, label in enumerate(labels):
        height, width = forms[label].shape
        top, left = (rng.integers(0, size - edge + 1) for edge in (height, width))
        pixels[row, top : top + height, left : left + width] += forms[label][..., None] * rng.uniform(
            120, 190, channels
        )
    return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), labels, len(forms))


def glyphs(text: str, edge: int = 14) -> list[Pixels]:
    """Return the letters of *text* as images."""
    found = []
    for letter in text:
        canvas = Image.new("L", (edge, edge))
        ImageDraw.Draw(canvas).text(
            (edge / 2, edge / 2), letter, fill=255, font=ImageFont.load_default(13), anchor="mm"
        )
        found.append(np.asarray(canvas) / 255)
    return found


def arrows() -> list[Pixels]:
    """Return arrows to the left, to the right, up and down."""
    shape = np.zeros((9, 9))
    shape[4] = 1
    for step in range(4):
        shape[4 - step, 8 - step] = shape[4 + step, 8 - step] = 1
    return [shape[:, ::-1], shape, shape.T[::-1], shape.T]


def symmetric() -> list[Pixels]:
    """Return a bar, a cross, a box and a wedge: each its own mirror image."""
    bar, cross, box, wedge = (np.zeros((9, 9)) for _ in range(4))
    bar[:, 3:6] = 1
    cross[4] = cross[:, 4] = 1
    box[[0, 8]] = box[:, [0, 8]] = 1
    for row in range(9):
        wedge[row, row // 2 : 9 - row // 2] = 1
    return [bar, cross, box, wedge]


def patterns(twins: bool) -> list[Pixels]:
    """Return twelve patterns that are their own mirror image; with *twins*, the last two are each other's."""
    rng = np.random.default_rng(3)
    raw = rng.uniform(0, 1, (12, 4, 8)).repeat(3, 1)[:, :12].repeat(2, 2)[:, :, :14]
    found = [(each + each[:, ::-1]) / 2 for each in raw]
    return [*found[:-2], raw[-1], raw[-1][:, ::-1]] if twins else found


def trained(images: ImageSet, *, flip: bool) -> Classifier:
    model = untrained(images, "small_resnet", 0, torch.device("cpu"))
    recipe = Recipe(epochs=5, batch_size=32, lr=0.05, augmentation={"flip": flip})
    learn(model, images, recipe, Context(seed=0), name="test", stage="train")
    return model


def asked(case: Case, seed: int = 0) -> tuple[bool, str, dict[str, Evidence]]:
    found = decide(case, Context(seed=seed))
    return found.used, found.why, found.evidence


LEFT_RIGHT = {
    "arrows": lambda seed: drawn(arrows()[:2], 80, seed),
    "arrows in four directions": lambda seed: drawn(arrows(), 160, seed),
    "b and d, in gray": lambda seed: drawn(glyphs("bd"), 80, seed, channels=1),
    "p and q among letters": lambda seed: drawn(glyphs("AHTpqOM"), 280, seed),
    "6 and 9 and other digits": lambda seed: drawn(glyphs("24679"), 200, seed),
    "one mirror pair among twelve": lambda seed: drawn(patterns(True), 300, seed),
}
ALIKE = {
    "shapes": lambda seed: drawn(symmetric(), 160, seed),
    "shapes, in gray": lambda seed: drawn(symmetric(), 160, seed, channels=1),
    "symmetric letters": lambda seed: drawn(glyphs("AHTOMV"), 240, seed),
    "twelve patterns": lambda seed: drawn(patterns(False), 300, seed),
    "up and down": lambda seed: drawn(arrows()[2:], 80, seed),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LEFT_RIGHT)
def test_classes_that_differ_by_left_and_right_are_not_mirrored(name: str, seed: int) -> None:
    clean = LEFT_RIGHT[name](seed)
    train = LEFT_RIGHT[name](seed + 100) if seed else None
    assert not asked(Case(clean=clean, train=train))[0]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ALIKE)
def test_classes_that_are_their_own_mirror_images_are_mirrored(name: str, seed: int) -> None:
    clean = ALIKE[name](seed)
    train = ALIKE[name](seed + 100) if seed else None
    assert asked(Case(clean=clean, train=train))[0]


def test_float_images_give_the_same_answer() -> None:
    for clean, expected in ((ALIKE["shapes"](0), True), (LEFT_RIGHT["arrows"](0), False)):
        as_float = clean.replace(images=clean.read(slice(None)).astype(np.float32) / np.float32(255))
        assert asked(Case(clean=as_float))[0] == expected


def test_digits_are_not_mirrored() -> None:
    plain = load_digits()
    small = ImageSet((plain.images[..., None] * 15.9).astype(np.uint8), plain.target, 10)
    for images in (small, digits(seed=1).test):
        for count in (40, 150):
            used, why, evidence = asked(Case(clean=images.subset(np.arange(count))))
            assert not used and evidence["a probe"].verdict == "harmful"
            assert why.startswith(f"training does not mirror images: a probe labels {evidence['a probe'].plain:.0%} of")


def test_model_and_probe_are_asked() -> None:
    arrow, shape = LEFT_RIGHT["arrows in four directions"], ALIKE["shapes"]
    for make, expected in ((arrow, "harmful"), (shape, "harmless")):
        used, why, evidence = asked(Case(clean=make(0), model=trained(make(1), flip=False)))
        assert (used, list(evidence)) == (expected == "harmless", ["the suspect model", "a probe"])
        assert evidence["the suspect model"].verdict == expected and "the suspect model labels" in why


def test_a_model_that_learned_to_confuse_left_and_right_does_not_vouch_for_it() -> None:
    make = LEFT_RIGHT["arrows in four directions"]
    used, _, evidence = asked(Case(clean=make(0), model=trained(make(1), flip=True)))
    model = evidence["the suspect model"]
    assert abs(model.plain - model.mirrored) < 0.1  # it sees no difference
    assert model.verdict == "unclear" and model.closest == (0, 1) and evidence["a probe"].verdict == "harmful"
    assert not used


def test_a_model_that_learned_both_sides_of_digits_does_not_vouch_for_it() -> None:
    split = digits(size=8, seed=1, clean=150, test=0)
    used, why, evidence = asked(Case(clean=split.clean, model=trained(split.train, flip=True)))
    assert evidence["the suspect model"].verdict == "harmless" and evidence["a probe"].verdict == "harmful"
    assert not used and "a probe labels" in why


def test_poisoned_suspects_do_not_change_the_answer() -> None:
    """A tenth of the suspects is patched and labelled 0, so that half of class 0 has its own mark on one side."""
    for make, expected in ((ALIKE["shapes"], True), (LEFT_RIGHT["arrows"], False)):
        suspects = make(5)
        pixels, labels = suspects.read(slice(None)), suspects.labels.copy()
        rows = np.flatnonzero(labels != 0)[: len(labels) // 10]
        pixels[rows, -3:, -3:], labels[rows] = 255, 0
        assert asked(Case(clean=make(0), train=suspects.replace(images=pixels, labels=labels)))[0] == expected


def test_suspects_that_are_copies_of_the_clean_set_tell_the_probe_nothing() -> None:
    clean = ALIKE["shapes"](0)
    alone, copied = asked(Case(clean=clean)), asked(Case(clean=clean, train=clean.subset(np.arange(80))))
    assert alone == copied


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: images.subset(np.flatnonzero(images.labels != 2)), "some class has fewer than two of them"),
        (lambda images: images.replace(labels=np.zeros(len(images), np.int64)), "does not surely tell classes"),
        (lambda images: images.subset(np.arange(8)), "does not surely tell classes"),
        (lambda images: images.replace(labels=np.random.default_rng(0).permutation(images.labels)), "nothing shows"),
        (lambda images: images.subset(np.arange(0)), "without a reserved clean set nothing shows"),
        (lambda images: None, "without a reserved clean set nothing shows"),
    ],
    ids=["class missing", "no labels", "few", "wrong labels", "empty", "none"],
)
def test_what_cannot_be_shown_is_not_done(change: Any, said: str, caplog: pytest.LogCaptureFixture) -> None:
    train = ALIKE["shapes"](0)
    context = Context(seed=0)
    found = decide(Case(train=train.subset(np.arange(60)), clean=change(train)), context)
    assert not found.used and said in found.why and context.notes == [found.why]
    assert caplog.records[-1].levelno == logging.WARNING


def test_names_of_classes_are_used() -> None:
    shape = ALIKE["shapes"](0)
    named = ImageSet(shape.read(slice(None)), shape.labels, 4, classes=["bar", "cross", "box", "wedge"])
    why = asked(Case(clean=named.subset(np.flatnonzero(named.labels != 2))))[1]
    assert "tell classes" in why and "box" in why


def test_one_class_may_be_mirrored() -> None:
    images = drawn(symmetric()[:1], 20, 0)
    assert asked(Case(clean=images))[2]["a probe"].separation == np.inf


def test_what_the_case_says_is_not_measured() -> None:
    for known in (True, False):
        context = Context()
        found = decide(Case(clean=LEFT_RIGHT["arrows"](0), mirror=known), context)
        assert (found.used, found.evidence, context.timings) == (known, {}, {})
    assert Case(clean=ALIKE["shapes"](0), mirror=False).visible().mirror is False


def test_the_decision_is_made_once_per_case() -> None:
    context, case = Context(seed=0), Case(clean=ALIKE["shapes"](0))
    first = decide(case, context)
    assert decide(case.visible(), context) is first and context.notes == [first.why]
    other = dataclasses.replace(case, clean=LEFT_RIGHT["arrows in four directions"](0))
    assert decision(other, context) is None
    assert (first.used, decide(other, context).used, decide(case, context).used) == (True, False, True)


class Inner(Settings):
    augmentation: Augmentation = Augmentation(crop=1, flip="auto")


class Outer(Settings):
    inner: Inner = Inner()
    several: tuple[Augmentation, ...] = (Augmentation(flip="auto"), Augmentation(flip=True))
    maybe: Augmentation | None = None
    number: int = Field(3, ge=0)


def test_auto_is_replaced_wherever_it_is_nested_and_nothing_else() -> None:
    case = Case(clean=ALIKE["shapes"](0), mirror=False)
    closed = settled(Outer(), case, Context())
    assert closed.inner.augmentation == Augmentation(crop=1, flip=False)
    assert closed.several == (Augmentation(), Augmentation(flip=True)) and closed.number == 3
    said = Outer(inner=Inner(augmentation=Augmentation(flip=True)), several=())
    context = Context()
    assert settled(said, case, context) is said and context.notes == []


def test_auto_is_refused_where_images_are_drawn() -> None:
    open_one = Augmentation(flip="auto")
    with pytest.raises(SettingsError, match="whether to mirror is not decided"):
        draw_augmentation(open_one, 3, torch.Generator(), torch.device("cpu"))
    with pytest.raises(SettingsError, match="whether to mirror is not decided"):
        augment(torch.zeros(1, 4, 4, 1), open_one, {})
    with pytest.raises(SettingsError, match="flip"):
        Augmentation.build({"flip": "sometimes"})
    assert Augmentation.build({"flip": "auto"}).flip == "auto" and Augmentation.build({"flip": "true"}).flip is True


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 5), st.booleans())
def test_no_classifier_makes_a_mirror_pair_pass(seed: int, count: int, classes: int, trained_with: bool) -> None:
    """Whatever it answers: the images of class 1 are the mirror images of those of class 0, others stand beside."""
    rng = np.random.default_rng(seed)
    plain, sides = rng.normal(size=(2, count, classes))
    plain[:, 0] += rng.uniform(-3, 3)
    sides = plain.copy() if trained_with else sides
    others = np.repeat(np.arange(2, classes), 20)
    sure = 9 * np.eye(classes)[others]
    labels = np.concatenate([np.zeros(count, int), np.ones(count, int), others])
    found = judge(np.concatenate([plain, sides, sure]), np.concatenate([sides, plain, sure]), labels)
    assert found.verdict != "harmless" and found.separation <= 1e-9


def test_the_verdict_needs_both_answers() -> None:
    labels = np.arange(200) % 4
    sure = np.eye(4)[labels]
    assert judge(sure, sure, labels).verdict == "harmless"
    lost = sure.copy()
    lost[:40] = np.eye(4)[(labels[:40] + 1) % 4]
    found = judge(sure, lost, labels)
    assert (found.plain, found.mirrored, found.verdict) == (1, 0.8, "harmful")
    lost[10:40] = sure[10:40]  # one in twenty: beyond chance, but little
    found = judge(sure, lost, labels)
    assert found.fall_p == 2.0**-10 and found.verdict == "harmless"
    merged = sure.copy()
    merged[:, 2] = merged[:, 3] = labels >= 2
    found = judge(merged, merged, labels)
    assert (found.closest, found.verdict) == ((2, 3), "unclear")


def test_the_probe_leaves_each_sample_out() -> None:
    images = drawn(arrows(), 60, 0)
    features, sides = features_of(images), features_of(mirrored(images))
    plain, other = probe_scores(features, sides, images.labels, 4, 10)
    for row in (0, 9):
        keep = np.arange(60) != row
        weights = np.full(60, 1.0)  # all classes are as large
        centred = features - features.mean(0)
        penalty = np.trace(centred.T @ centred) / features.shape[1] + 1e-9
        wide = np.hstack([features, np.ones((60, 1))])[keep] * weights[keep, None]
        ridge = np.diag([*np.full(features.shape[1], penalty), 0.0])
        fit = np.linalg.solve(wide.T @ wide + ridge, wide.T @ np.eye(4)[images.labels[keep]])
        np.testing.assert_allclose(plain[row], [*features[row], 1] @ fit, atol=1e-8)
        np.testing.assert_allclose(other[row], [*sides[row], 1] @ fit, atol=1e-8)


def test_features_take_any_size_and_mirror_with_the_image() -> None:
    rng = np.random.default_rng(0)
    for shape in ((7, 7, 1), (48, 20, 3), (32, 32, 3)):
        images = ImageSet(rng.integers(0, 256, (3, *shape)).astype(np.uint8), [0, 1, 0], 2)
        found = features_of(images)
        assert found.shape == (3, 8 * 49 + 64 * shape[2]) and np.isfinite(found).all()
        colours, others = (each[:, 392:].reshape(3, shape[2], 8, 8) for each in (found, features_of(mirrored(images))))
        np.testing.assert_allclose(colours, others[..., ::-1], atol=1e-6)
