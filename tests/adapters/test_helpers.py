"""What the adapters share, on input it has to refuse or to tell apart."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.art.data import classifier_of
from elixir_plugin.adapters.backdoorbox.schedule import Schedule
from elixir_plugin.adapters.common.images import different, fill, inexact
from elixir_plugin.adapters.common.untrusted import numbers
from elixir_plugin.adapters.trojanvision.defenses import Repairing
from torch import nn

from elixir_plugin import get_defense
from elixir_plugin.core.pixels import to_bytes, to_floats
from elixir_plugin.defense import Defense
from elixir_plugin.errors import InputError, SettingsError

EVERY = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)


def test_images_are_compared_whatever_their_type_and_size() -> None:
    other = EVERY.copy()
    other[2, 0, 0] ^= 1
    expected = [False, False, True, False]
    for old, new in ((EVERY, other), (EVERY, to_floats(other)), (to_floats(EVERY), other)):
        assert different(old, new).tolist() == expected
    assert different(EVERY, EVERY[:, ::2]).tolist() == [True] * 4


def test_all_images_that_cannot_be_read_are_named_at_once() -> None:
    def read(position: int) -> Any:
        if position % 2:
            raise InputError("cannot be decoded", where=f"{position}.png", hint="mend it")
        return EVERY[0]

    out = np.zeros((30, 8, 8, 1), np.uint8)
    with pytest.raises(InputError, match="15 of 30 images cannot be read") as caught:
        fill(out, range(30), read)
    assert str(caught.value.found).startswith("1.png: cannot be decoded; 3.png: ") and caught.value.hint == "mend it"
    assert str(caught.value.found).endswith("19.png: cannot be decoded; and 5 more")
    with pytest.raises(InputError, match=r"^cannot be decoded") as caught:
        fill(out[:2], range(2), read)
    assert caught.value.where == "1.png"
    fill(out[:1], range(1), read)
    assert np.array_equal(out[0], EVERY[0])


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    floats = to_floats(EVERY)
    assert floats.dtype == np.float32 and (floats.min(), floats.max()) == (0, 1)
    assert np.array_equal(to_bytes(floats), EVERY) and not inexact(floats).any()
    assert to_floats(floats) is floats and to_bytes(EVERY) is EVERY
    assert inexact(floats * np.float32(0.999)).all()


@pytest.mark.parametrize(
    "value", [[1, 2], np.array([1, 2]), torch.tensor([1, 2]), nn.Parameter(torch.tensor([1.0, 2]))]
)
def test_numbers_become_an_array(value: Any) -> None:
    assert numbers(value, "here").tolist() == [1, 2]


ODD: dict[str, Callable[[], Any]] = {
    "ragged": lambda: [[1], [2, 3]],
    "a type numpy does not have": lambda: torch.zeros(3, dtype=torch.bfloat16),
    "sparse": lambda: torch.zeros(3).to_sparse(),
    "nowhere": lambda: torch.zeros(3, device="meta"),
    "without end": lambda: torch.zeros(1).expand(10**12),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of sparse tensors
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_array_of_numbers_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="not plain numbers") as caught:
        numbers(ODD[name](), "labels")
    assert caught.value.where == "labels"


class Host:
    """What trojanvision's base class does, as far as it counts here."""

    def __init__(self, **_: Any) -> None:
        self.param_list: dict[str, Any] = {}


class Repair(Repairing, Host):
    defense: ClassVar[type[Defense]] = get_defense("d3")

    def plain_dataset(self, mode: str) -> Any:
        return range(10)


@pytest.mark.parametrize("value", ["abc", "1.5", "{a: 1}", "true", "-1", 2.0])
def test_arguments_of_trojanvision_that_are_no_numbers(value: Any) -> None:
    assert Repair(d3_seed="7")._seed == 7
    with pytest.raises(SettingsError, match="not a whole number") as caught:
        Repair(d3_seed=value)
    assert caught.value.where == "d3_seed"
    with pytest.raises(SettingsError, match="not a whole number") as caught:
        Repair(d3_clean_num=value).reserved(10)
    assert caught.value.where == "d3_clean_num"


def test_a_gpu_by_a_name_that_is_not_visible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1, GPU-2")
    with pytest.raises(SettingsError, match="no such GPU") as caught:
        Schedule.of({"device": "GPU", "CUDA_SELECTED_DEVICES": "GPU-3,GPU-1"}).torch_device()
    assert caught.value.found == "GPU-3"


def test_a_classifier_of_art_standardises_as_its_estimator_does() -> None:
    pixels, mean, std = torch.rand(5, 3, 8, 8), [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    estimator = SimpleNamespace(
        model=module, nb_classes=4, input_shape=(3, 8, 8), channels_first=True, clip_values=(0.0, 255.0),
        preprocessing=SimpleNamespace(mean=np.array(mean), std=np.array(std)), device=torch.device("cpu"),
    )  # fmt: skip
    inside = (255 * pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(classifier_of(estimator)(pixels), module(inside), atol=1e-5)
