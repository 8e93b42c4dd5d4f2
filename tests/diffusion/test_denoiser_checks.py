"""Weight files that say they hold more than they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from elixir_plugin.diffusion.denoisers.checks import UNetConfig, load_unet
from elixir_plugin.diffusion.denoisers.folders import Parts
from elixir_plugin.diffusion.denoisers.weight_files import Weights, read_weights
from elixir_plugin.errors import InputError

CONFIG = UNetConfig(
    block_out_channels=(32,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    layers_per_block=1,
    norm_num_groups=8,
    add_attention=False,
)


@pytest.mark.parametrize("odd", [lambda: torch.zeros(1).expand(10**6), lambda: torch.zeros(3, device="meta")])
def test_tensors_without_their_numbers_are_refused(odd: Callable[[], Tensor], tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": odd()}, tmp_path / "w.bin")
    with pytest.raises(InputError, match="not plain numbers") as caught:
        read_weights(tmp_path / "w.bin")
    assert caught.value.where == tmp_path / "w.bin" and caught.value.found == "b"


def test_a_tensor_that_repeats_one_number_without_end_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": torch.zeros(1).expand(10**12)}, tmp_path / "w.bin")
    with pytest.raises(InputError, match="larger than the file accounts for") as caught:
        read_weights(tmp_path / "w.bin")
    assert caught.value.found == f"a tensor of {10**12} numbers that repeats 1 of them"


def test_many_names_for_one_tensor_do_not_make_a_large_file(tmp_path: Path) -> None:
    one = torch.zeros(2000)
    torch.save({f"w{number}": one for number in range(500)}, tmp_path / "w.bin")
    parts = Parts(tmp_path / "config.json", Weights(tmp_path / "w.bin"), tmp_path / "scheduler_config.json")
    with pytest.raises(InputError, match="do not fit the network"):
        load_unet(CONFIG, parts)
