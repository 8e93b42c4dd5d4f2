import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from elixir_plugin.core.case import Case, Origin, TriggeredSet, Truth
from elixir_plugin.core.classifier import Classifier
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.errors import InputError

BACKINGS = ("array", "memmap", "lazy")


@st.composite
def pixels(draw, least=0):
    shape = (
        draw(st.integers(least, 9)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([1, 3])),
    )
    if draw(st.booleans()):
        return draw(hnp.arrays(np.uint8, shape))
    return draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))


def backed(images, kind, folder):
    if kind == "lazy":
        return LazyImages(lambda i: images[i], len(images), images.shape[1:], images.dtype)
    if kind == "memmap" and images.size:
        path = folder / f"{images.dtype}{images.shape}.bin".replace(" ", "")
        images.tofile(path)
        return np.memmap(path, images.dtype, "r", shape=images.shape)
    return images.copy()


def image_set(images, kind="array", folder=None, classes=3):
    labels = np.arange(len(images)) * 7 % classes
    return ImageSet(backed(images, kind, folder), labels, classes, [f"{i}.png" for i in range(len(images))])


def gray(n=4, classes=2, **kwargs):
    return ImageSet(np.zeros((n, 2, 2, 1), np.uint8), np.arange(n) % classes, classes, **kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("memmaps")


@pytest.mark.parametrize("kind", BACKINGS)
@given(images=pixels(), size=st.integers(1, 11))
def test_chunks_give_every_image_once_and_in_order(folder, kind, images, size):
    sample = image_set(images, kind, folder)
    positions, parts = [], [images[:0]]
    for part, chunk in sample.chunks(size):
        positions += range(part.start, part.stop)
        parts.append(chunk)
        assert chunk.dtype == images.dtype
        chunk[:] = 0  # a chunk belongs to the caller
    assert positions == list(range(len(images)))
    assert np.array_equal(sample.read(slice(None)), images)


@pytest.mark.parametrize("kind", BACKINGS)
@given(images=pixels(least=1), data=st.data())
def test_subset_keeps_pixels_labels_names_and_ids_together(folder, kind, images, data):
    sample = image_set(images, kind, folder)
    index = data.draw(st.permutations(range(len(images))))[: data.draw(st.integers(0, len(images)))]
    part = sample.subset(index)
    assert np.array_equal(part.read(slice(None)), images[index])
    assert part.labels.tolist() == [sample.labels[i] for i in index]
    assert part.ids.tolist() == list(index)
    assert part.names == tuple(f"{i}.png" for i in index)
    again = data.draw(st.permutations(range(len(index))))
    assert part.subset(again).ids.tolist() == [index[i] for i in again]
    assert np.array_equal(part.subset(again).read(slice(None)), images[index][again])


@given(images=pixels(least=1), data=st.data())
def test_all_backings_agree(folder, images, data):
    rows = data.draw(hnp.arrays(np.int64, st.integers(0, 5), elements=st.integers(0, len(images) - 1)))
    sets = [image_set(images, kind, folder) for kind in BACKINGS]
    for sample in sets:
        assert np.array_equal(sample.read(rows), images[rows])
        assert np.array_equal(sample.load().images, images)
        assert not isinstance(sample.load().images, np.memmap)
    assert len({sample.fingerprint() for sample in sets}) == 1
    assert len({sample.content_hashes().tobytes() for sample in sets}) == 1


@given(images=pixels(least=1))
def test_equal_images_have_equal_hashes(images):
    hashes = image_set(images).content_hashes()
    assert hashes.shape == (len(images),)
    for i, j in np.ndindex(len(images), len(images)):
        assert (hashes[i] == hashes[j]) == (images[i].tobytes() == images[j].tobytes())


def test_hashes_tell_shape_and_type_apart():
    flat = [
        np.zeros((1, 2, 2, 1), np.uint8),
        np.zeros((1, 4, 1, 1), np.uint8),
        np.zeros((1, 1, 1, 1), np.float32),
        np.zeros((1, 2, 1, 1), np.float32),
    ]
    assert len({image_set(each).content_hashes()[0] for each in flat}) == len(flat)


def test_fingerprint_covers_order_labels_and_classes():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    prints = {
        ImageSet(images, [0, 1], 2).fingerprint(),
        ImageSet(images[::-1], [0, 1], 2).fingerprint(),
        ImageSet(images, [1, 0], 2).fingerprint(),
        ImageSet(images, [0, 1], 3).fingerprint(),
    }
    assert len(prints) == 4
    assert all(len(each) == 12 for each in prints)


def test_an_empty_set_works():
    empty = gray(0)
    assert len(empty) == 0
    assert list(empty.chunks()) == []
    assert empty.content_hashes().shape == (0,)
    assert empty.class_counts().tolist() == [0, 0]
    assert len(gray(3).subset([])) == 0


def test_a_mask_is_taken_as_a_mask():
    mask = np.array([True, False, False, True])
    assert gray(4).subset(mask).ids.tolist() == [0, 3]


@pytest.mark.parametrize("index", [[True, False], [0.5, 1.0], [[0, 1]], 1, ["a"]])
def test_what_is_no_index_is_refused(index):
    with pytest.raises(InputError, match="not an index"):
        gray(4).subset(index)


def test_a_sample_cannot_be_taken_twice():
    with pytest.raises(InputError, match="unique"):
        gray(4).subset([1, 1])


@pytest.mark.parametrize(("labels", "where"), [([0, 1, 2, 0], "labels[2]"), ([0, -1, 0, 0], "labels[1]")])
def test_label_out_of_range_names_the_first_offender(labels, where):
    with pytest.raises(InputError, match="label out of range") as caught:
        ImageSet(np.zeros((4, 2, 2, 1), np.uint8), labels, 2)
    assert caught.value.where == where
    assert caught.value.allowed == "0..1"


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6), st.integers(1, 5))
def test_labels_are_taken_or_refused_never_changed(labels, classes):
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    if all(0 <= label < classes for label in labels):
        assert ImageSet(images, labels, classes).labels.tolist() == labels
    else:
        with pytest.raises(InputError):
            ImageSet(images, labels, classes)


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False], ["a", "b"], [0], [[0], [1]], None])
def test_labels_of_another_kind_or_number_are_refused(labels):
    with pytest.raises(InputError, match="label"):
        ImageSet(np.zeros((2, 2, 2, 1), np.uint8), labels, 2)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((2, 2, 2, 4), np.uint8),
        np.zeros((2, 0, 2, 3), np.uint8),
        np.zeros((2, 2, 2, 3), np.float64),
        np.zeros((2, 2, 2, 3), np.int64),
    ],
)
def test_images_of_another_shape_or_type_are_refused(images):
    with pytest.raises(InputError, match="images must be"):
        ImageSet(images, [0, 1], 2)


@pytest.mark.parametrize("value", [-0.001, 1.001, np.nan, np.inf, -np.inf, 255.0])
@pytest.mark.parametrize("kind", BACKINGS)
def test_float_pixels_out_of_range_are_refused(folder, kind, value):
    images = np.full((3, 2, 2, 1), 0.5, np.float32)
    images[2, 0, 1] = value
    sample = image_set(images, kind, folder)
    with pytest.raises(InputError, match="pixel value out of range"):
        list(sample.chunks())


def test_lazy_images_of_mixed_size_are_refused():
    images = LazyImages(lambda i: np.zeros((2 + i, 2, 3), np.uint8), 2, (2, 2, 3))
    with pytest.raises(InputError, match="mixed size") as caught:
        ImageSet(images, [0, 1], 2).load()
    assert caught.value.where == "image 1"


def test_lazy_images_are_read_when_asked_for():
    asked = []

    def read(i):
        asked.append(i)
        return np.zeros((2, 2, 3), np.uint8)

    part = ImageSet(LazyImages(read, 9, (2, 2, 3)), np.zeros(9, int), 1).subset([7, 3, 5])
    assert asked == []
    part.read(slice(1, 3))
    assert asked == [3, 5]


def test_lazy_images_are_hashed_once():
    asked = []

    def read(i):
        asked.append(i)
        return np.full((2, 2, 3), i, np.uint8)

    lazy = ImageSet(LazyImages(read, 3, (2, 2, 3)), np.zeros(3, int), 2)
    first = lazy.content_hashes()
    again = lazy.replace(labels=[1, 1, 1]).content_hashes()
    assert asked == [0, 1, 2] and np.array_equal(first, again) and np.array_equal(first, lazy.load().content_hashes())


def test_lazy_images_are_decoded_once_for_all_fingerprints():
    asked = []

    def read(i):
        asked.append(i)
        return np.full((2, 2, 3), i, np.uint8)

    lazy = ImageSet(LazyImages(read, 3, (2, 2, 3)), np.zeros(3, int), 2)
    others = [lazy, lazy.replace(labels=[1, 0, 1])]
    assert [each.fingerprint() for each in others] == [each.fingerprint() for each in others]
    assert asked == [0, 1, 2]
    assert [each.fingerprint() for each in others] == [each.load().fingerprint() for each in others]


def test_the_fingerprint_of_an_array_follows_the_array():
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    images = ImageSet(pixels, [0, 0], 1)
    before = images.fingerprint()
    pixels[0] = 1
    assert images.fingerprint() != before


@pytest.mark.parametrize("kwargs", [{"names": ["a"]}, {"ids": [0, 1, 1, 2]}, {"ids": [0, 1]}])
def test_names_and_ids_must_match(kwargs):
    with pytest.raises(InputError):
        gray(4, **kwargs)


def test_a_set_cannot_be_written_to_and_leaves_the_callers_arrays_writable():
    images, labels, ids = np.zeros((2, 2, 2, 1), np.uint8), np.array([0, 1]), np.array([5, 9])
    sample = ImageSet(images, labels, 2, ids=ids)
    for array in (sample.images, sample.labels, sample.ids, gray(2).ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    images[:], labels[:], ids[:] = 1, 0, 0
    assert sample.labels.tolist() == [0, 1]
    assert sample.ids.tolist() == [5, 9]


def test_replace_keeps_the_rest():
    sample = gray(3, names=["a", "b", "c"], ids=[4, 2, 9])
    other = sample.replace(labels=[1, 1, 1])
    assert other.labels.tolist() == [1, 1, 1]
    assert (other.names, other.ids.tolist()) == (sample.names, [4, 2, 9])
    assert sample.labels.tolist() == [0, 1, 0]


def full_case():
    return Case(
        train=gray(4),
        clean=gray(2),
        test=gray(3),
        test_poisoned=TriggeredSet(gray(3), [1, 1, 1]),
        truth=Truth(np.array([True, False, False, False])),
        origin=Origin("arrays", "somewhere", {"attack": "badnets"}),
        notes=("poisoned on purpose",),
    )


def test_visible_strips_all_that_a_defense_may_not_see():
    case = full_case()
    seen = case.visible()
    for part, whole in ((seen.train, case.train), (seen.clean, case.clean)):
        assert part is not None and whole is not None and part.fingerprint() == whole.fingerprint()
    assert (seen.test, seen.test_poisoned, seen.truth, seen.notes) == (None, None, None, ())
    assert seen.origin == Origin()
    assert "badnets" not in repr(seen)
    assert case.truth is not None


@pytest.mark.parametrize("part", ["clean", "test"])
def test_parts_of_a_case_must_agree(part):
    with pytest.raises(InputError, match="number of classes"):
        Case(train=gray(4, classes=2), **{part: gray(4, classes=3)})
    with pytest.raises(InputError, match="image shape"):
        Case(train=gray(4), **{part: ImageSet(np.zeros((1, 3, 2, 1), np.uint8), [0], 2)})


def test_truth_must_fit_the_suspect_set():
    with pytest.raises(InputError, match="truth"):
        Case(train=gray(4), truth=Truth(np.zeros(3, bool)))
    with pytest.raises(InputError, match="truth"):
        Case(truth=Truth(np.zeros(3, bool)))
    with pytest.raises(InputError, match="truth"):
        Truth(np.zeros(3, bool), cover=np.zeros(2, bool))
    with pytest.raises(InputError, match="truth"):
        Truth(np.zeros(3, bool), original_labels=[0, 1])


def test_truth_takes_lists_and_fills_the_cover():
    truth = Truth([1, 0, 1], original_labels=[0, 1, 2])
    assert truth.poison.dtype == truth.cover.dtype == bool
    assert truth.cover.tolist() == [False] * 3
    assert truth.original_labels.tolist() == [0, 1, 2]


def test_triggered_set_checks_its_labels():
    with pytest.raises(InputError, match="original labels"):
        TriggeredSet(gray(2), [0, 2])
    with pytest.raises(InputError, match="original labels"):
        TriggeredSet(gray(2), [0])


def test_number_of_classes_comes_from_any_part():
    assert Case(test=gray(3, classes=3)).num_classes == 3
    with pytest.raises(InputError, match="empty"):
        _ = Case().num_classes


def named(classes, count=3):
    return ImageSet(np.zeros((count, 8, 8, 3), np.uint8), np.arange(count), count, classes=classes)


def test_class_names_follow_a_set_through_subset_and_replace():
    images = named(("a", "b", "c"))
    assert images.subset([2, 0]).classes == images.replace(labels=[0, 0, 0]).classes == ("a", "b", "c")


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "b"), ()])
def test_class_names_are_one_per_class(classes):
    with pytest.raises(InputError, match="one distinct name per class"):
        named(classes)


def test_parts_that_name_the_classes_in_another_order_are_refused():
    with pytest.raises(InputError, match="names of the classes") as caught:
        Case(train=named(("1", "2", "10")), clean=named(("1", "10", "2")))
    assert "1: '2' and '10'" in str(caught.value)


def test_a_model_saved_with_its_class_names_is_compared_with_the_set(tmp_path):
    Classifier.build("small_resnet", 3, classes=("x", "y", "z")).save(tmp_path)
    model = Classifier.load(tmp_path)
    assert model.classes == ("x", "y", "z")
    assert Case(train=named(("x", "y", "z")), model=model).num_classes == 3
    assert Case(train=named(None), model=model).num_classes == 3
    with pytest.raises(InputError, match="names of the classes"):
        Case(train=named(("x", "z", "y")), model=model)
