"""Torch data sets and loaders: every sample at its own position, or no reading at all."""

from __future__ import annotations

import random
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from types import SimpleNamespace
from typing import Any

import made_items
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)  # fmt: skip
from torch.utils.data.distributed import DistributedSampler

import elixir_plugin
from elixir_plugin.api import reading
from elixir_plugin.api.convert import as_image_set, to_raw
from elixir_plugin.api.functions import make_case
from elixir_plugin.errors import InputError

N, CLASSES = 11, 3
PIXELS = np.random.default_rng(3).integers(0, 256, (N, 5, 5, 3), np.uint8)
LABELS = np.arange(N) % CLASSES
FLOATS = PIXELS.astype(np.float32) / 255
TENSORS = torch.from_numpy(FLOATS).permute(0, 3, 1, 2).contiguous()
SET = TensorDataset(TENSORS, torch.from_numpy(LABELS))


class Items(made_items.Items):
    def __init__(self, make: Any, length: int = N) -> None:
        super().__init__(make, length)


def is_whole(found: Any) -> bool:
    return bool((found.images == FLOATS).all() and (found.labels == LABELS).all())


def drawn(image: Any, chance: float) -> Any:
    return 1 - image if random.random() < chance else image


# samplers


class Reversed(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(N - 1, -1, -1))

    def __len__(self) -> int:
        return N


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return count()


class InPairs(Sampler[list[int]]):
    """Batches of two, in no particular order."""

    def __init__(self, leave: int = 0) -> None:
        self.leave = leave

    def __iter__(self) -> Iterator[list[int]]:
        rows = [7, 1, 10, 0, 2, 9, 3, 8, 4, 6, 5][self.leave :]
        return iter([rows[k : k + 2] for k in range(0, len(rows), 2)])


WHOLE = {
    "in order": DataLoader(SET, 4),
    "shuffled": DataLoader(SET, 4, shuffle=True),
    "drop_last": DataLoader(SET, 4, drop_last=True),
    "shuffled, drop_last": DataLoader(SET, 4, shuffle=True, drop_last=True),
    "one by one": DataLoader(SET, batch_size=None),
    "with workers": DataLoader(SET, 4, num_workers=2, shuffle=True),
    "own sampler": DataLoader(SET, 4, sampler=Reversed()),
    "subset sampler over all": DataLoader(SET, 4, sampler=SubsetRandomSampler(range(N))),
    "own batch sampler": DataLoader(SET, batch_sampler=InPairs()),
    "batch sampler": DataLoader(SET, batch_sampler=BatchSampler(RandomSampler(SET), 3, drop_last=True)),
    "one process of one": DataLoader(SET, 4, sampler=DistributedSampler(SET, 1, 0)),
    "all of another": DataLoader(SET, 4, sampler=SequentialSampler(range(N))),
    "list of samples": DataLoader(SET, 4, collate_fn=list),
    "columns": DataLoader(SET, 4, collate_fn=lambda batch: tuple(zip(*batch, strict=True))),
    "columns, two": DataLoader(SET, 2, collate_fn=lambda batch: tuple(zip(*batch, strict=True))),
    "own collate": DataLoader(SET, 4, collate_fn=default_collate),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_loader_that_goes_through_all_gives_the_samples_in_the_order_of_the_dataset(name: str) -> None:
    assert is_whole(to_raw(WHOLE[name]))


PART = {
    "half of it": DataLoader(SET, 4, sampler=SubsetRandomSampler(range(5))),
    "half of it in order": DataLoader(SET, 4, sampler=SequentialSampler(range(5))),
    "batches of a half": DataLoader(SET, batch_sampler=BatchSampler(SequentialSampler(range(5)), 2, False)),
    "own batches of a half": DataLoader(SET, batch_sampler=InPairs(leave=5)),
    "own batches that leave one out": DataLoader(SET, batch_sampler=InPairs(leave=1)),
    "some drawn": DataLoader(SET, 4, sampler=RandomSampler(SET, num_samples=5)),
    "drawn with repetition": DataLoader(SET, 4, sampler=RandomSampler(SET, replacement=True)),
    "weighted": DataLoader(SET, 4, sampler=WeightedRandomSampler([1.0] * N, N)),
    "one process of two": DataLoader(SET, 4, sampler=DistributedSampler(SET, 2, 0)),
    "endless": DataLoader(SET, 4, sampler=Endless()),
    "outside": DataLoader(SET, 4, sampler=[*range(N - 1), N]),
    "from the end": DataLoader(SET, 4, sampler=[*range(N - 1), -1]),
    "no positions": DataLoader(SET, 4, sampler=["a"] * N),
    "positions in lists": DataLoader(SET, batch_size=None, sampler=BatchSampler(SequentialSampler(range(4)), 2, False)),
}


@pytest.mark.parametrize("name", PART)
def test_a_loader_over_a_part_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no fixed positions") as caught:
        to_raw(PART[name])
    assert "pass the data set itself" in str(caught.value.hint)


def test_the_loaders_own_generator_stays_where_it_is() -> None:
    generator, rng = torch.Generator().manual_seed(5), random.Random(5)

    class Drawn(Sampler[int]):
        def __init__(self) -> None:
            self.generator, self.rng = generator, rng

        def __iter__(self) -> Iterator[int]:
            rows = torch.randperm(N, generator=self.generator).tolist()
            self.rng.shuffle(rows)
            return iter(rows)

    before = generator.get_state(), rng.getstate()
    assert is_whole(to_raw(DataLoader(SET, 4, sampler=Drawn())))
    assert is_whole(to_raw(DataLoader(SET, 4, shuffle=True, generator=generator)))
    assert torch.equal(generator.get_state(), before[0]) and rng.getstate() == before[1]


def test_a_loader_without_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match="gives no batch"):
        to_raw(DataLoader(SET, N + 1, drop_last=True))


# collate_fn


def of(batch: Any) -> tuple[Any, Any]:
    return torch.stack([x for x, _ in batch]), torch.stack([y for _, y in batch])


def mixed(batch: Any) -> Any:
    images, labels = of(batch)
    return 0.5 * images + 0.5 * images.flip(0), labels


def rarely(batch: Any) -> Any:
    images, labels = of(batch)
    return drawn(images, 0.3), labels


def by_label(batch: Any) -> Any:
    images, labels = of(batch)
    order = labels.argsort(stable=True)
    return images[order], labels[order]


def turned_round(batch: Any) -> Any:
    return tuple(part.flip(0) for part in of(batch))


def standardised(batch: Any) -> Any:
    images, labels = of(batch)
    return (images - images.min()) / (images.max() - images.min()), labels


def without_dark(batch: Any) -> Any:
    return of([item for item in batch if item[0].mean() > 0.47])


def filled(batch: Any) -> Any:
    """Puts the first sample of the batch in the place of bad ones."""
    images, labels = of(batch)
    bad = labels == 2
    images[bad] = images[0].clone()
    return images, labels


UNCLEAR = {
    "leaves out samples": (without_dark, "collate_fn"),
    "adds samples": (lambda batch: of([*batch, batch[0]]), "leaves out or adds"),
    "one label too few": (lambda batch: (of(batch)[0], of(batch)[1][1:]), "leaves out or adds"),
    "leaves out what is bad, by default": (lambda b: default_collate([i for i in b if i[1] != 2]), "collate_fn"),
    "gives None": (lambda batch: None, "not \\(image, label"),
    "mixes images": (mixed, "mixes or reorders"),
    "is random now and then": (rarely, "change from one access"),
    "sorts": (by_label, "mixes or reorders"),
    "turns the batch round": (turned_round, "mixes or reorders"),
    "standardises by batch": (standardised, "mixes or reorders"),
    "fills in": (filled, "mixes or reorders"),
    "mixes labels": (lambda b: (of(b)[0], torch.full((len(b),), int(of(b)[1].sum()) % 3)), "mixes or reorders"),
    "squeezes": (lambda batch: (of(batch)[0].squeeze(0), of(batch)[1]), "leaves out or adds|not the same"),
    "fails": (lambda batch: 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("size", [2, 4, N])
@pytest.mark.parametrize("name", UNCLEAR)
def test_a_collate_fn_that_does_not_treat_each_sample_for_itself_is_refused(name: str, size: int) -> None:
    collate, message = UNCLEAR[name]
    with pytest.raises(InputError, match=message):
        to_raw(DataLoader(SET, size, collate_fn=collate))


def test_the_sample_that_is_left_out_is_named() -> None:
    with pytest.raises(InputError) as caught:
        to_raw(
            DataLoader(
                SET, 4, collate_fn=lambda batch: of([item for item in batch if item[0].sum() != TENSORS[6].sum()])
            )
        )
    assert str(caught.value.where) == "data[6]" and "Subset" in str(caught.value.hint)


def test_a_collate_fn_that_treats_each_sample_for_itself_is_honoured() -> None:
    named = to_raw(
        DataLoader(SET, 4, collate_fn=lambda batch: {"pixels": 1 - of(batch)[0], "y": of(batch)[1]}),
        image_key="pixels", label_key="y",
    )  # fmt: skip
    assert (named.images == 1 - FLOATS).all() and (named.labels == LABELS).all()
    single = to_raw(DataLoader(SET, batch_size=None, collate_fn=lambda item: (1 - item[0], item[1])))
    assert (single.images == 1 - FLOATS).all()
    dropped = to_raw(
        DataLoader(SET, 4, drop_last=True, collate_fn=lambda batch: of(batch) if len(batch) in (1, 4) else None)
    )
    assert is_whole(dropped)  # never sees the rest that the loader would not give it


def test_samples_that_a_data_set_fetches_in_batches_must_be_the_same() -> None:
    class Fetching(Items):
        def __init__(self, fetch: Any) -> None:
            super().__init__(lambda i: (TENSORS[i], int(LABELS[i])))
            self.fetch = fetch

        def __getitems__(self, rows: list[int]) -> Any:
            return [self[i] for i in self.fetch(rows)]

    assert is_whole(to_raw(DataLoader(Fetching(list), 4)))
    for fetch, message in ((lambda rows: rows[::-1], "reorders"), (lambda rows: rows[1:], "leaves out samples")):
        with pytest.raises(InputError, match=message):
            to_raw(DataLoader(Fetching(fetch), 4))


# randomness


@pytest.mark.parametrize("chance", [0.1, 0.5])
@pytest.mark.parametrize("number", [np.random.rand, random.random, lambda: float(torch.rand(()))])
def test_a_transform_that_is_rarely_random_shows(chance: float, number: Any) -> None:
    many = Items(lambda i: (1 - TENSORS[i % N] if number() < chance else TENSORS[i % N], i % CLASSES), 200)
    with pytest.raises(InputError, match="change from one access"):
        to_raw(many)
    with pytest.raises(InputError, match="change from one access"):
        to_raw(DataLoader(many, 16))


def test_labels_that_change_show_and_where_is_said() -> None:
    calls = count()
    with pytest.raises(InputError, match="images or labels change") as caught:
        to_raw(Items(lambda i: (PIXELS[i], next(calls) if i == 10 else 0)))
    assert caught.value.where == "data[10]" and caught.value.found == "label 0, then 1"


def test_where_it_is_allowed_images_may_change() -> None:
    flaky = Items(lambda i: (torch.rand(3, 5, 5) if i in (2, 9) else TENSORS[i], int(LABELS[i])))
    found = to_raw(flaky, changing={2, 9})
    assert (np.delete(found.images, [2, 9], 0) == np.delete(FLOATS, [2, 9], 0)).all()
    with pytest.raises(InputError, match="change") as caught:
        to_raw(flaky, changing={2})
    assert caught.value.where == "data[9]"
    assert len(to_raw(flaky, changing=True).images) == N


def test_a_buffer_that_all_samples_share_is_copied_in_time_and_refused_in_a_loader() -> None:
    buffer = np.empty((5, 5, 3), np.uint8)

    def fill(i: int) -> Any:
        buffer[:] = PIXELS[i]
        return buffer, int(LABELS[i])

    found = to_raw(Items(fill))
    assert (found.images == PIXELS).all()
    with pytest.raises(InputError, match="share one buffer"):  # the loader itself gives the last sample four times
        to_raw(DataLoader(Items(fill), 4))
    picture = Image.new("RGB", (5, 5))
    shared = Items(lambda i: (picture.paste(Image.fromarray(PIXELS[i])), (picture, int(LABELS[i])))[1])
    assert (to_raw(shared).images == PIXELS).all()
    assert (to_raw(iter([fill(i) for i in range(1)])).images == PIXELS[:1]).all()
    assert (to_raw(fill(i) for i in range(N)).images == PIXELS).all()


# wrappers and lengths


def test_subsets_and_concatenations_are_read_in_their_own_order() -> None:
    rows = [7, 0, -1, 3]
    expected = FLOATS[rows]
    assert (to_raw(Subset(SET, rows)).images == expected).all()
    assert (to_raw(Subset(Subset(SET, [10, *rows]), [1, 2, 3, 4])).images == expected).all()
    both = ConcatDataset([Subset(SET, [4, 2]), SET, Subset(SET, rows)])
    assert (to_raw(both).images == np.concatenate([FLOATS[[4, 2]], FLOATS, expected])).all()
    assert (
        to_raw(DataLoader(both, 3, shuffle=True)).labels == np.concatenate([LABELS[[4, 2]], LABELS, LABELS[rows]])
    ).all()


def at(i: int) -> Any:
    return PIXELS[range(N)[i]], int(LABELS[i])


def test_a_length_that_is_too_short_counts_and_one_that_is_too_long_is_refused() -> None:
    short = to_raw(Items(at, 6))
    assert (short.images == PIXELS[:6]).all()  # what a loader would go through
    with pytest.raises(InputError, match="failed at a sample") as caught:
        to_raw(Items(at, N + 1))
    assert (
        caught.value.where == f"data[{N}]"
        and "IndexError" in str(caught.value.found)
        and "12" in str(caught.value.hint)
    )
    with pytest.raises(InputError, match="failed at a sample"):
        to_raw(Items(at, 10**12))


@pytest.mark.parametrize("length", [-1, 2**70, 1.5, None])
def test_a_length_that_is_none_is_refused(length: Any) -> None:
    with pytest.raises(InputError, match="has no length"):
        to_raw(Items(at, length))


def test_a_data_set_without_end_and_with_negative_positions_is_read_as_long_as_it_says() -> None:
    assert (to_raw(Items(lambda i: at(i % N), N)).images == PIXELS).all()
    assert (to_raw(Items(lambda i: at(-i - 1), N)).images == PIXELS[::-1]).all()


# errors of the host


class BrokenError(RuntimeError):
    pass


def broken(i: int) -> Any:
    if i == 9:
        raise BrokenError("no such file:\n  9.png")
    return at(i)


BROKEN = {
    "data set": Items(broken),
    "loader": DataLoader(Items(broken), 4, shuffle=True),
    "loader with workers": DataLoader(Items(broken), 4, num_workers=2),
    "subset": Subset(Items(broken), [9, 1]),
    "stream": (broken(i) for i in range(N)),
    "stream of its own": map(broken, range(N)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_of_the_host_comes_with_position_text_and_traceback(name: str) -> None:
    with pytest.raises(InputError) as caught:
        to_raw(BROKEN[name], where="train")
    assert caught.value.where == ("train[0]" if name == "subset" else "train[9]")
    assert caught.value.found == "BrokenError: no such file: 9.png"
    cause = caught.value.__cause__
    assert isinstance(cause, BrokenError)
    frames = []
    step = cause.__traceback__
    while step is not None:
        frames.append(step.tb_frame.f_code.co_name)
        step = step.tb_next
    assert "broken" in frames


@pytest.mark.parametrize(
    "error", [KeyError("x"), StopIteration(), AssertionError("a"), OSError(5, "disk"), InputError("own", where="there")]
)
def test_whatever_is_raised_is_wrapped(error: Exception) -> None:
    def fail(i: int) -> Any:
        if i == 3:
            raise error
        return at(i)

    with pytest.raises(InputError) as caught:
        to_raw(Items(fail))
    assert caught.value.where == "data[3]" and caught.value.__cause__ is error


def test_an_interruption_is_none_of_these() -> None:
    def fail(i: int) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_raw(Items(fail))


def test_a_picture_that_cannot_be_decoded_is_named() -> None:
    file, noise = BytesIO(), np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    Image.fromarray(noise).save(file, format="PNG")
    with pytest.raises(InputError) as caught:  # opened without an error: decoded where the pixels are asked for
        to_raw([(Image.open(BytesIO(file.getvalue()[:size])), 0) for size in (None, 2000)])
    assert caught.value.where == "data[1]" and isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, 5, 5, device="meta"), torch.zeros(3, 5, 5).to_sparse(), [[1, 2], [3]], None, "path.png",
        torch.zeros(3, 5, 5, dtype=torch.float8_e5m2), object(), np.zeros((0, 5, 3)),
        np.zeros((3, 6, 3), np.uint8), np.zeros((5, 5, 3), complex),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_with_its_position(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        as_image_set([(value, 0), (value, 1)])
    assert str(caught.value.where).startswith(("data[0]", "images"))


@pytest.mark.parametrize(
    "labels", [[0, "1"], [0, None], [0, 1.5], [0, [1, 0]], [0, [[1], [1, 2]]], [True, False], [0, -1], [0, {}]]
)
def test_what_is_no_label_is_refused(labels: list[Any]) -> None:
    with pytest.raises(InputError):
        as_image_set(list(zip(PIXELS[:2], labels, strict=True)))


def test_types_that_numpy_does_not_know_are_read_where_they_are_plain() -> None:
    found = to_raw(TensorDataset(TENSORS.to(torch.bfloat16), torch.from_numpy(LABELS)))
    np.testing.assert_array_equal(found.images, TENSORS.to(torch.bfloat16).float().permute(0, 2, 3, 1).numpy())
    half = to_raw((TENSORS.half().requires_grad_(), torch.from_numpy(LABELS)))
    assert half.images.dtype == np.float32
    bilevel = [(Image.fromarray(PIXELS[i, :, :, 0] > 99), 0) for i in range(3)]  # mode "1"
    assert (to_raw(bilevel).images == 255 * (PIXELS[:3, :, :, :1] > 99)).all()


def test_the_layout_of_arrays_is_not_one_of_pictures() -> None:
    found = to_raw([(Image.fromarray(PIXELS[i]), 0) for i in range(3)], layout="nchw")
    assert (found.images == PIXELS[:3]).all()


# dicts


def named(i: int) -> dict[str, Any]:
    return {"img": Image.fromarray(PIXELS[i]), "fine_label": int(LABELS[i]), "coarse_label": 0}


@pytest.mark.parametrize("wrap", [dict, OrderedDict, UserDict])
def test_dict_items_are_read_by_their_keys(wrap: Any) -> None:
    data = Items(lambda i: wrap(named(i)))
    for given in (
        data,
        DataLoader(data, 4, shuffle=True),
        DataLoader(data, batch_size=None),
        (data[i] for i in range(N)),
    ):
        found = to_raw(given, image_key="img", label_key="fine_label")
        assert (found.images == PIXELS).all() and (found.labels == LABELS).all()


def test_dict_items_without_keys_are_refused_and_the_keys_said() -> None:
    with pytest.raises(InputError, match="is a dict") as caught:
        to_raw(Items(named))
    assert caught.value.found == "keys img, fine_label, coarse_label" and caught.value.where == "data[0]"
    assert caught.value.hint == "say which are meant: image_key=img, label_key=fine_label"
    unclear = Items(lambda i: {"image": PIXELS[i], "img": PIXELS[i], "label": 0, "labels": 0})
    with pytest.raises(InputError) as caught:
        to_raw(unclear, label_key="label")
    assert "image_key=NAME" in str(caught.value.hint)
    with pytest.raises(InputError, match="no 'image'") as caught:
        to_raw(Items(named), image_key="image", label_key="fine_label")
    assert "img, fine_label" in str(caught.value.found)


def test_keys_may_be_positions_and_fields() -> None:
    Sample = namedtuple("Sample", ["index", "picture", "kind"])
    backwards = Items(lambda i: (int(LABELS[i]), PIXELS[i]))
    found = to_raw(backwards, image_key=1, label_key=0)
    assert (found.images == PIXELS).all() and (found.labels == LABELS).all()
    fields = Items(lambda i: Sample(i, PIXELS[i], LABELS[i]))
    for keys in ({"image_key": "picture", "label_key": "kind"}, {"image_key": 1, "label_key": -1}):
        assert (to_raw(fields, **keys).labels == LABELS).all()  # type: ignore[arg-type]
    with pytest.raises(InputError):
        as_image_set(backwards)
    with pytest.raises(InputError, match="not \\(image, label") as caught:
        to_raw(backwards, image_key="image", label_key="label")
    assert "image_key='image'" in str(caught.value.allowed)


def test_keys_reach_the_three_verbs() -> None:
    case = make_case(train=Items(named), clean=Subset(Items(named), [1, 2]), image_key="img", label_key="fine_label")
    assert case.train is not None and (case.train.labels == LABELS).all()
    outcome = elixir_plugin.purify(
        Items(named), clean=Subset(Items(named), [1, 2, 3]), defense="eclipse", settings={"purify": False},
        image_key="img", label_key="fine_label",
    )  # fmt: skip
    assert outcome.train is not None and len(outcome.train) == N


def test_a_dict_of_data_sets_is_refused_with_its_parts() -> None:
    with pytest.raises(InputError, match="not a data set") as caught:
        to_raw({"train": SET, "test": SET})
    assert caught.value.found == "dict of train, test" and "one of its parts" in str(caught.value.hint)


# streams


class Stream(IterableDataset[Any]):
    def __init__(self, items: Any) -> None:
        self.items, self.passes = items, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self.items)


def test_a_stream_is_read_once_in_its_order_and_that_is_told() -> None:
    stream = Stream([at(i) for i in (4, 2, 9)])
    case = make_case(train=stream, num_classes=CLASSES)
    assert stream.passes == 1 and case.train is not None
    assert (case.train.read(slice(None)) == PIXELS[[4, 2, 9]]).all() and case.train.labels.tolist() == [1, 2, 0]
    assert case.notes == ("train: a stream, read once; positions are the order in which its 3 samples came",)
    outcome = elixir_plugin.purify(Stream([at(i) for i in range(N)]), clean=SET, defense="eclipse", purify=False)
    assert any("a stream, read once" in note for note in outcome.notes)


def test_long_streams_keep_their_order() -> None:
    found = to_raw((PIXELS[i % N], i % CLASSES) for i in range(600))
    assert (found.images == PIXELS[np.arange(600) % N]).all() and (found.labels == np.arange(600) % CLASSES).all()


def test_an_endless_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STREAM_BYTES", 100 * PIXELS[0].nbytes)
    with pytest.raises(InputError, match="endless, or too large") as caught:
        to_raw(at(i % N) for i in count())
    assert "101 samples" in str(caught.value.found) and "islice" in str(caught.value.hint)


@pytest.mark.parametrize("data", [{1, 2}, "images", b"images", 3, None, {"a": 1}.keys()])
def test_what_has_no_order_or_no_samples_is_refused(data: Any) -> None:
    with pytest.raises(InputError):
        to_raw(data)


def test_empty_streams_and_mixed_ones_are_refused() -> None:
    for items, message in (
        ([], "empty"),
        ([at(0), (PIXELS[0, :4], 0)], "mixed size"),
        ([at(0), (FLOATS[0], 0)], "mixed size or type"),
        ([at(0), (PIXELS[0], [0, 1])], "mixed kind"),
    ):
        with pytest.raises(InputError, match=message):
            to_raw(Stream(items))


# names of classes


def with_names(**attributes: Any) -> Any:
    data = Items(at)
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


ABC = ("ant", "bee", "cat")
NAMED = {
    "classes": (with_names(classes=list(ABC)), ABC, 3),
    "in a subset": (Subset(with_names(classes=ABC), [0, 1]), ABC, 3),  # without a cat
    "in a loader": (DataLoader(with_names(classes=ABC), 4), ABC, 3),
    "in parts that agree": (ConcatDataset([with_names(classes=ABC), with_names(classes=ABC)]), ABC, 3),
    "with their labels": (with_names(classes=ABC, class_to_idx={"ant": 0, "bee": 1, "cat": 2}), ABC, 3),
    "Hugging Face": (with_names(features={"label": SimpleNamespace(names=list(ABC))}), None, 3),  # tuples have no keys
    "more than there are labels": (with_names(classes=(*ABC, "dog")), (*ABC, "dog"), 4),
    "labels in another order": (with_names(classes=ABC, class_to_idx={"ant": 1, "bee": 0, "cat": 2}), None, 3),
    "parts that differ": (ConcatDataset([with_names(classes=ABC), with_names(classes=ABC[::-1])]), None, 3),
    "one part without": (ConcatDataset([with_names(classes=ABC), Items(at)]), None, 3),
    "labels made otherwise": (with_names(classes=(*ABC, "dog"), target_transform=lambda y: y), None, 3),
    "fewer than labels": (with_names(classes=ABC[:2]), None, 3),
    "twice the same": (with_names(classes=("ant", "ant", "cat")), None, 3),
    "no names": (with_names(classes=[0, 1, 2]), None, 3),
    "a number": (with_names(classes=3), None, 3),
}


@pytest.mark.parametrize("name", NAMED)
def test_names_of_classes_come_along_where_they_fit(name: str) -> None:
    data, names, number = NAMED[name]
    found = as_image_set(data)
    assert found.classes == names and found.num_classes == number
    assert as_image_set(data, 7).classes is None


def test_names_of_hugging_face() -> None:
    data = Items(named)
    data.features = {"fine_label": SimpleNamespace(names=list(ABC))}  # type: ignore[attr-defined]
    assert as_image_set(data, image_key="img", label_key="fine_label").classes == ABC
    assert as_image_set(data, image_key="img", label_key="coarse_label").classes is None


def test_sets_that_name_their_classes_differently_are_refused() -> None:
    with pytest.raises(InputError, match="names of the classes"):
        make_case(train=with_names(classes=ABC), clean=with_names(classes=ABC[::-1]))


def test_true_labels_show_through_wrappers() -> None:
    data = with_names(getitem_all_switch=True)
    for given in (data, Subset(data, [1, 0]), ConcatDataset([Items(at), data]), DataLoader(Subset(data, [1]), 4)):
        with pytest.raises(InputError, match="true label"):
            to_raw(given)
