"""The networks: sizes, zero start, GroupNorm, strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from elixir_plugin.diffusion.denoisers.unet import (
    SIZES,
    Architecture,
    architecture_of,
    build_unet,
    instantiate,
    refuse_missing_groupnorm,
)
from elixir_plugin.errors import InputError, SettingsError

TOY = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})


@pytest.mark.parametrize(
    ("size", "edge", "learn_sigma", "parameters"),
    [
        ("tiny", 16, True, 1_193_254),
        ("small", 32, True, 6_950_918),
        ("ddpm", 32, False, 35_746_307),
        ("eclipse", 32, True, 52_546_438),
        ("eclipse", 64, True, 121_063_942),
    ],
)
def test_sizes_have_the_published_number_of_parameters(
    size: Any, edge: int, learn_sigma: bool, parameters: int
) -> None:
    with torch.device("meta"):
        unet = build_unet(size, edge, 3, learn_sigma)
    assert sum(each.numel() for each in unet.parameters()) == parameters


@pytest.mark.parametrize("size", ["tiny", TOY, Architecture((8, 8), 1, (False, False), SIZES["ddpm"].options)])
def test_a_fresh_network_gives_exactly_zero_and_learns(size: Any) -> None:
    unet = build_unet(size, 8, 3, True).eval()
    output = unet(torch.randn(2, 3, 8, 8), torch.tensor([0.25, 900.0]), return_dict=False)[0]
    assert output.shape == (2, 6, 8, 8) and not output.any()
    (output - 1).square().mean().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())
    assert any(bool(parameter.any()) for parameter in unet.parameters())


def test_weights_follow_the_seed_and_leave_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build_unet(TOY, 8, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("size", SIZES)
def test_attention_in_the_middle_owns_a_groupnorm(size: Any) -> None:
    with torch.device("meta"):
        unet: Any = build_unet(size, 32)
    middle = unet.mid_block.attentions[0]
    assert isinstance(middle.group_norm, nn.GroupNorm)
    refuse_missing_groupnorm(unet, size)


def test_a_network_that_lost_its_groupnorm_is_named() -> None:
    built: Any = build_unet(TOY, 8)
    config = {key: value for key, value in built.config.items() if not key.startswith("_")}
    bare = instantiate({**config, "attn_norm_num_groups": None})
    assert sum(each.numel() for each in bare.parameters()) == sum(each.numel() for each in built.parameters()) - 32
    with pytest.raises(InputError, match="without its GroupNorm") as caught:
        refuse_missing_groupnorm(bare, "here")
    assert "mid_block.attentions.0" in str(caught.value) and "attn_norm_num_groups" in str(caught.value)


def test_a_build_that_forgets_the_groupnorm_does_not_pass() -> None:
    options = {**TOY.options, "attn_norm_num_groups": None}
    with pytest.raises(InputError, match="without its GroupNorm"):
        build_unet(Architecture(TOY.channels, TOY.blocks, TOY.attention, options), 8)


@pytest.mark.parametrize(("size", "sides"), [("tiny", (18, 16)), ("eclipse", 36), (TOY, (1, 1))])
def test_sides_the_levels_cannot_halve_are_refused(size: Any, sides: Any) -> None:
    with pytest.raises(InputError, match="image side does not fit"):
        build_unet(size, sides)


def test_eclipse_grows_from_64_pixels_on() -> None:
    assert architecture_of("eclipse", (32, 64)).channels == (128, 256, 256, 256)
    assert architecture_of("eclipse", (64, 64)).channels == (128, 256, 384, 512)
    assert architecture_of("eclipse", (64, 64)).stride == 8
    with pytest.raises(SettingsError, match="unknown size"):
        architecture_of("tinny", (32, 32))
