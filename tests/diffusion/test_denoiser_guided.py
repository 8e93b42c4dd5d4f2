"""Checkpoints of improved-diffusion and guided-diffusion: read from the shapes of their weights, and computed rightly.

:class:`Reference` is a second implementation of the network, straight from its description: each layer asks for its
weights by name and shape when it is first used, so the same walk makes a checkpoint and computes with it, in float64.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor, nn

from elixir_plugin.cli.app import program
from elixir_plugin.core.context import Context
from elixir_plugin.defense import get_defense
from elixir_plugin.diffusion.denoisers import find_denoiser, load_checkpoint
from elixir_plugin.diffusion.denoisers.guided import GuidedDenoiser
from elixir_plugin.diffusion.denoisers.guided_plan import plan_of
from elixir_plugin.diffusion.denoisers.guided_settings import PUBLISHED, GuidedSettings
from elixir_plugin.diffusion.denoisers.guided_unet import Heads
from elixir_plugin.diffusion.plan import Purification, plan
from elixir_plugin.diffusion.purify import purify_batch
from elixir_plugin.diffusion.schedule import NoiseLevel
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.testing.defenses import tiny_case

IMPROVED: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": (1, 2),
    "attention_resolutions": "8",
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "class_cond": False,
    "learn_sigma": True,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "diffusion_steps": 4000,
    "noise_schedule": "cosine",
    "rescale_timesteps": True,
}
GUIDED = {**IMPROVED, "num_heads": -1, "num_head_channels": 32, "resblock_updown": True} | {
    "use_new_attention_order": True,
    "diffusion_steps": 1000,
    "rescale_timesteps": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "improved": IMPROVED,
    "improved, plain": {**IMPROVED, "use_scale_shift_norm": False, "learn_sigma": False, "num_res_blocks": 2}
    | {"num_heads": 2, "num_heads_upsample": 1, "noise_schedule": "linear", "diffusion_steps": 200},
    "improved, by class": {**IMPROVED, "class_cond": True, "class_label": 3, "rescale_timesteps": False},
    "guided": GUIDED,
    "guided, by class": {**GUIDED, "class_cond": True, "class_label": 4, "channel_mult": (1, 1, 3)}
    | {"attention_resolutions": "8,4", "num_res_blocks": 2},
    "guided, old order": {**GUIDED, "use_new_attention_order": False, "num_head_channels": 16, "learn_sigma": False},
    "guided, narrow start": {**GUIDED, "num_channels": 64, "channel_mult": (0.5, 1), "attention_resolutions": "16"},
    "one level": {**IMPROVED, "channel_mult": (2,), "attention_resolutions": "1", "resblock_updown": True},
    "gray": {**IMPROVED, "channels": 1},
}
CLASSES = 5


class Reference:
    """The network of *flags*, with weights *state*; those that are not there are drawn."""

    def __init__(self, flags: dict[str, Any], state: dict[str, Tensor] | None = None) -> None:
        self.flags, self.state = flags, {} if state is None else state
        self.draws = torch.Generator().manual_seed(0)
        self.base = int(flags["num_channels"])
        self.widths = [int(mult * self.base) for mult in flags["channel_mult"]]
        self.attended = {flags["image_size"] // int(each) for each in flags["attention_resolutions"].split(",")}

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
            self.state[name] = torch.randn(shape, generator=self.draws) * scale
        assert self.state[name].shape == shape, name
        return self.state[name].double()

    def linear(self, name: str, x: Tensor, out: int) -> Tensor:
        return x @ self.get(f"{name}.weight", out, x.shape[1]).T + self.get(f"{name}.bias", out)

    def conv(self, name: str, x: Tensor, out: int, side: int = 3, stride: int = 1) -> Tensor:
        weight, bias = self.get(f"{name}.weight", out, x.shape[1], side, side), self.get(f"{name}.bias", out)
        return torch.nn.functional.conv2d(x, weight, bias, stride, side // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        groups = x.reshape(len(x), 32, -1)
        spread = groups.var(2, unbiased=False, keepdim=True) + 1e-5
        flat = ((groups - groups.mean(2, keepdim=True)) / spread.sqrt()).reshape(x.shape)
        per = (1, -1) + (1,) * (x.dim() - 2)
        weight, bias = self.get(f"{name}.weight", x.shape[1]), self.get(f"{name}.bias", x.shape[1])
        return flat * weight.reshape(per) + bias.reshape(per)

    def residual(self, name: str, x: Tensor, emb: Tensor, out: int, resample: Callable[[Tensor], Tensor]) -> Tensor:
        h = resample(silu(self.norm(f"{name}.in_layers.0", x)))
        h = self.conv(f"{name}.in_layers.2", h, out)
        factor = 2 if self.flags["use_scale_shift_norm"] else 1
        moved = self.linear(f"{name}.emb_layers.1", silu(emb), factor * out)[:, :, None, None]
        if factor == 2:
            h = self.norm(f"{name}.out_layers.0", h) * (1 + moved[:, :out]) + moved[:, out:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + moved)
        h = self.conv(f"{name}.out_layers.3", silu(h), out)
        x = resample(x)
        return h + (x if x.shape[1] == out else self.conv(f"{name}.skip_connection", x, out, 1))

    def attention(self, name: str, x: Tensor, *, up: bool) -> Tensor:
        flags, (count, width, height, _) = self.flags, x.shape
        heads = flags["num_heads_upsample"] if up and flags["num_heads_upsample"] > 0 else flags["num_heads"]
        if flags["num_head_channels"] > 0:
            heads = width // flags["num_head_channels"]
        each = width // heads
        flat = x.reshape(count, width, -1)
        qkv = torch.einsum("oc,bct->bot", self.get(f"{name}.qkv.weight", 3 * width, width, 1)[:, :, 0],
                           self.norm(f"{name}.norm", flat))  # fmt: skip
        qkv = qkv + self.get(f"{name}.qkv.bias", 3 * width)[:, None]
        found = []
        for head in range(heads):
            if flags["use_new_attention_order"]:
                starts = [part * width + head * each for part in range(3)]
            else:
                starts = [(3 * head + part) * each for part in range(3)]
            q, k, v = (qkv[:, start : start + each] for start in starts)
            weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(each), 2)
            found.append(torch.einsum("bts,bcs->bct", weights, v))
        weight, bias = self.get(f"{name}.proj_out.weight", width, width, 1), self.get(f"{name}.proj_out.bias", width)
        out = torch.einsum("oc,bct->bot", weight[:, :, 0], torch.cat(found, 1)) + bias[:, None]
        return (flat + out).reshape(count, width, height, -1)

    def __call__(self, x: Tensor, times: Tensor, label: int | None = None) -> Tensor:
        flags, x = self.flags, x.double()
        half = self.base // 2
        angles = times.double()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half).double() / half)
        emb = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * self.base)
        emb = self.linear("time_embed.2", silu(emb), 4 * self.base)
        if flags["class_cond"]:
            emb = emb + self.get("label_emb.weight", CLASSES, 4 * self.base)[label]
        channels, blocks = x.shape[1], flags["num_res_blocks"]
        h = self.conv("input_blocks.0.0", x, self.widths[0])
        passed, number = [h], 1
        for level, width in enumerate(self.widths):
            for _ in range(blocks):
                h = self.residual(f"input_blocks.{number}.0", h, emb, width, same)
                if 2**level in self.attended:
                    h = self.attention(f"input_blocks.{number}.1", h, up=False)
                passed.append(h)
                number += 1
            if level < len(self.widths) - 1:
                if flags["resblock_updown"]:
                    h = self.residual(f"input_blocks.{number}.0", h, emb, width, halved)
                else:
                    h = self.conv(f"input_blocks.{number}.0.op", h, width, stride=2)
                passed.append(h)
                number += 1
        width = self.widths[-1]
        h = self.residual("middle_block.0", h, emb, width, same)
        h = self.attention("middle_block.1", h, up=False)
        h = self.residual("middle_block.2", h, emb, width, same)
        number = 0
        for level in reversed(range(len(self.widths))):
            for block in range(blocks + 1):
                width = self.widths[level]
                h = self.residual(f"output_blocks.{number}.0", torch.cat([h, passed.pop()], 1), emb, width, same)
                part = 1
                if 2**level in self.attended:
                    h = self.attention(f"output_blocks.{number}.1", h, up=True)
                    part = 2
                if level and block == blocks:
                    name = f"output_blocks.{number}.{part}"
                    if flags["resblock_updown"]:
                        h = self.residual(name, h, emb, width, doubled)
                    else:
                        h = self.conv(f"{name}.conv", doubled(h), width)
                number += 1
        assert not passed
        return self.conv("out.2", silu(self.norm("out.0", h)), channels * (2 if flags["learn_sigma"] else 1))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def same(x: Tensor) -> Tensor:
    return x


def halved(x: Tensor) -> Tensor:
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def states(flags: dict[str, Any]) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(3, flags.get("channels", 3), flags["image_size"], flags["image_size"], generator=draws)
    return x, torch.tensor([0, 7, flags["diffusion_steps"] - 1])


def weights(flags: dict[str, Any] = IMPROVED) -> dict[str, Tensor]:
    """Return the state dict of a network of *flags*."""
    return dict(_weights(json.dumps(flags)))


@cache
def _weights(flags: str) -> dict[str, Tensor]:
    made = Reference(json.loads(flags))
    made(*states(made.flags), made.flags.get("class_label"))
    return made.state


def stated(flags: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {**flags, "channel_mult": ",".join(f"{each:g}" for each in flags["channel_mult"])} | changes
    return {name: value for name, value in values.items() if name != "channels" and value != "remove"}


def checkpoint(
    folder: Path, flags: dict[str, Any] = IMPROVED, state: Any = None, name: str = "ema_0.9999_500000", **changes: Any
) -> Path:
    """Write a checkpoint and its JSON file, and return the path of the former."""
    torch.save(weights(flags) if state is None else state, folder / f"{name}.pt")
    (folder / f"{name}.json").write_text(json.dumps(stated(flags, **changes)))
    return folder / f"{name}.pt"


# values


@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_are_those_of_the_network_as_described(name: str, tmp_path: Path) -> None:
    flags = NETWORKS[name]
    found = find_denoiser(str(checkpoint(tmp_path, flags)))
    x, indices = states(flags)
    scale = 1000 / flags["diffusion_steps"] if flags["rescale_timesteps"] else 1
    expected = Reference(flags, weights(flags))(x, indices * scale, flags.get("class_label"))
    predicted = found.predict(x, indices)
    parts = [predicted.eps] if predicted.variance is None else [predicted.eps, predicted.variance]
    assert expected.std() > 0.1
    assert torch.allclose(torch.cat(parts, 1).double(), expected, atol=1e-5, rtol=1e-5)
    assert (predicted.variance is not None) == flags["learn_sigma"] == (found.variance == "learned_range")
    assert (found.channels, found.image_size) == (x.shape[1], 16)
    assert found.stride == 2 ** (len(flags["channel_mult"]) - 1)
    assert not any(each.requires_grad for each in found.network.parameters()) and not found.network.training  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_say_what_they_can(name: str) -> None:
    flags = NETWORKS[name]
    found = plan_of(weights(flags), Path("x.pt"))
    assert (found.base, found.blocks) == (flags["num_channels"], flags["num_res_blocks"])
    assert found.widths == tuple(int(mult * found.base) for mult in flags["channel_mult"])
    assert found.scale_shift == flags["use_scale_shift_norm"] and found.first == found.widths[0]
    attended = {16 // int(each) for each in flags["attention_resolutions"].split(",")}
    assert [2**level in attended for level in range(len(found.widths))] == list(found.attention)
    assert found.classes == (CLASSES if flags["class_cond"] else None)
    if len(found.widths) > 1:
        assert found.block_resampling == flags["resblock_updown"]


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 2},
        {"num_heads_upsample": 1},
        {"num_head_channels": 8},
        {"use_new_attention_order": True},
        {"rescale_timesteps": False},
        {"noise_schedule": "linear"},
        {"diffusion_steps": 2000},
    ],
)
def test_what_shapes_do_not_show_changes_predictions_and_fingerprint(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    usual, other = (find_denoiser(path) for path in (checkpoint(tmp_path), checkpoint(tmp_path / "other", **change)))
    assert usual.fingerprint() != other.fingerprint()
    x, _ = states(IMPROVED)
    indices = torch.tensor([3, 900, 1999])
    if "noise_schedule" not in change:
        assert (usual.predict(x, indices).eps - other.predict(x, indices).eps).abs().max() > 1e-3
    same_again = find_denoiser(tmp_path / "ema_0.9999_500000.pt")
    assert same_again.fingerprint() == usual.fingerprint()


def test_chains_are_those_of_both_projects(tmp_path: Path) -> None:
    found = find_denoiser(checkpoint(tmp_path))
    steps = torch.arange(4001).double() / 4000
    kept = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    assert torch.allclose(found.schedule.betas, (1 - kept[1:] / kept[:-1]).clamp(max=0.999))
    found = find_denoiser(checkpoint(tmp_path, diffusion_steps=250, noise_schedule="linear"))
    assert torch.allclose(found.schedule.betas, torch.linspace(4e-4, 0.08, 250, dtype=torch.float64))
    assert isinstance(found, GuidedDenoiser) and found.timestep_scale == 4 and found.trained_steps == 250
    found = find_denoiser(
        checkpoint(tmp_path, diffusion_steps=1000, noise_schedule="linear", rescale_timesteps="remove")
    )
    assert torch.allclose(found.schedule.betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def test_fixed_variances_follow_the_flags(tmp_path: Path) -> None:
    flags = {**IMPROVED, "learn_sigma": False}
    assert find_denoiser(checkpoint(tmp_path, flags)).variance == "fixed_large"
    assert find_denoiser(checkpoint(tmp_path, flags, sigma_small=True)).variance == "fixed_small"
    learned = checkpoint(tmp_path)
    chosen = load_checkpoint(learned, variance="fixed_small")
    assert chosen.variance == "fixed_small" and chosen.predict(*states(IMPROVED)).variance is None
    with pytest.raises(InputError, match="predicts no variance"):
        load_checkpoint(checkpoint(tmp_path, flags), variance="learned_range")
    with pytest.raises(SettingsError, match="unknown variance"):
        load_checkpoint(learned, variance="small")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_computed_with_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    rounded = {name: value.to(dtype) for name, value in weights().items()}
    found = find_denoiser(checkpoint(tmp_path, state=rounded))
    plain = find_denoiser(checkpoint(tmp_path, state={name: value.float() for name, value in rounded.items()}))
    first, second = found.predict(*states(IMPROVED)).eps, plain.predict(*states(IMPROVED)).eps
    assert first.dtype == torch.float32 and torch.equal(first, second)


def test_wrapped_and_safe_files_are_the_same_network(tmp_path: Path) -> None:
    usual = find_denoiser(checkpoint(tmp_path)).fingerprint()
    wrapped = {f"module.{name}": value for name, value in weights().items()}
    assert find_denoiser(checkpoint(tmp_path, state=wrapped)).fingerprint() == usual
    save_file(weights(), tmp_path / "ema_0.9999_500000.safetensors")
    assert find_denoiser(tmp_path / "ema_0.9999_500000.safetensors").fingerprint() == usual


def test_images_are_purified(tmp_path: Path) -> None:
    found = find_denoiser(checkpoint(tmp_path))
    settings = Purification(level=NoiseLevel(steps=100, of=4000), steps=3, precision="float32")
    images = torch.rand(2, 3, 15, 16, generator=torch.Generator().manual_seed(2))
    result = purify_batch(found, plan(found, settings, (15, 16, 3)), images, torch.arange(2), 0).images
    alone = purify_batch(found, plan(found, settings, (15, 16, 3)), images[1:], torch.tensor([1]), 0).images
    assert result.shape == images.shape and bool(result.isfinite().all()) and not torch.equal(result, images)
    assert torch.allclose(result[1:], alone, atol=1e-5)


# classes


def test_a_conditional_network_is_refused_unless_a_class_is_named(tmp_path: Path) -> None:
    flags = NETWORKS["guided, by class"]
    with pytest.raises(InputError, match="conditional on a class") as caught:
        find_denoiser(checkpoint(tmp_path, flags, class_label="remove"))
    assert all(text in str(caught.value) for text in ("never used", "class_label", "unconditional"))
    for label in (-1, CLASSES, 10**9):
        with pytest.raises(InputError, match=r"no such class|refused"):
            find_denoiser(checkpoint(tmp_path, flags, class_label=label))
    with pytest.raises(InputError, match="knows no classes"):
        find_denoiser(checkpoint(tmp_path, class_label=0))


def test_the_class_decides_predictions_and_is_told(tmp_path: Path) -> None:
    flags = NETWORKS["improved, by class"]
    x, indices = states(flags)
    predicted, fingerprints = [], set()
    for label in range(CLASSES):
        found = find_denoiser(checkpoint(tmp_path, flags, class_label=label))
        predicted.append(found.predict(x, indices).eps)
        fingerprints.add(found.fingerprint())
        expected = Reference(flags, weights(flags))(x, indices, label)[:, :3]
        assert torch.allclose(predicted[-1].double(), expected, atol=1e-5, rtol=1e-5)
        assert any(f"class {label}" in note for note in found.notes)
    assert len(fingerprints) == CLASSES and (predicted[0] - predicted[1]).abs().max() > 1e-3


# what is stated


@pytest.mark.parametrize(
    "name",
    ["image_size", "num_heads", "use_new_attention_order", "diffusion_steps", "noise_schedule", "rescale_timesteps"],
)
def test_what_shapes_do_not_show_must_be_stated(name: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, **{name: "remove"})
    with pytest.raises(InputError, match="does not say all") as caught:
        find_denoiser(path)
    assert name in str(caught.value.found) and str(path.with_suffix(".json")) in str(caught.value)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="does not say all") as caught:
        find_denoiser(path)
    assert name in str(caught.value.found)
    path.with_suffix(".json").write_text(str(caught.value.allowed).partition("e.g. ")[2])
    (tmp_path / "x").mkdir()
    fits = checkpoint(tmp_path / "x", {**IMPROVED, "image_size": 32, "attention_resolutions": "16"})
    (tmp_path / "x" / path.with_suffix(".json").name).write_text(path.with_suffix(".json").read_text())
    assert find_denoiser(fits).image_size == 32  # the example can be used as it is


def test_what_shapes_show_may_be_left_out(tmp_path: Path) -> None:
    shown = ("num_channels", "num_res_blocks", "channel_mult", "attention_resolutions", "class_cond", "learn_sigma")
    left = dict.fromkeys((*shown, "use_scale_shift_norm", "resblock_updown", "num_heads_upsample"), "remove")
    full = find_denoiser(checkpoint(tmp_path)).fingerprint()
    assert find_denoiser(checkpoint(tmp_path, **left)).fingerprint() == full
    forms = {"channel_mult": [1, 2], "attention_resolutions": [8], "learn_sigma": "True", "use_fp16": True}
    assert find_denoiser(checkpoint(tmp_path, **forms, dropout=0.3, timestep_respacing="250")).fingerprint() == full


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_channels": 64}, "num_channels = 32"),
        ({"num_res_blocks": 2}, "num_res_blocks = 1"),
        ({"channel_mult": "1,3"}, "channel_mult = (1.0, 2.0)"),
        ({"attention_resolutions": "16,8"}, "attention_resolutions = (8,)"),
        ({"image_size": 32}, "attention_resolutions = (16,)"),
        ({"class_cond": True}, "class_cond = False"),
        ({"learn_sigma": False}, "learn_sigma = True"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm = True"),
        ({"resblock_updown": True}, "resblock_updown = False"),
        ({"image_size": 15, "attention_resolutions": "remove"}, "multiples of 2"),
        ({"num_heads": 3}, "divisors of 64"),
        ({"num_heads": 0}, "divisors of 64"),
        ({"num_head_channels": 48}, "divisors of 64"),
        ({"predict_xstart": True}, "predict_xstart"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule"),
        ({"diffusion_steps": 0}, "diffusion_steps"),
        ({"num_head": 4}, "num_heads"),
        ({"channel_mult": "1,x"}, "channel_mult"),
    ],
)
def test_what_is_stated_is_not_believed(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, **change)
    with pytest.raises(InputError) as caught:
        find_denoiser(path)
    assert says in str(caught.value) and str(path.with_suffix(".json")) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_a_file_that_states_nothing_is_refused(text: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(InputError) as caught:
        find_denoiser(path)
    assert str(path.with_suffix(".json")) in str(caught.value)


def test_published_checkpoints_are_known_by_name_and_size(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, name="cifar10_uncond_50M_500K")
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="not what the weights show") as caught:
        find_denoiser(path)  # the name alone is not believed
    assert "num_channels = 32" in str(caught.value)
    small = {"num_channels": 32, "num_res_blocks": 1}
    path.with_suffix(".json").write_text(json.dumps(small))
    found = find_denoiser(path)
    assert isinstance(found, GuidedDenoiser)
    assert (found.image_size, found.schedule.name, found.schedule.length) == (32, "cosine", 4000)
    assert (found.timestep_scale, found.heads) == (0.25, Heads(4, 4, None, False))
    assert any("published checkpoint" in note and "cosine, 4000 steps, 32 px" in note for note in found.notes)
    for name, values in PUBLISHED.items():
        settings = GuidedSettings.build(values)
        assert not settings.missing() and f"{settings.image_size}" in (
            name if "x" in name else f"{settings.image_size}"
        )


# files that are something else


def other_files() -> dict[str, tuple[Any, str]]:
    state = weights()
    conditional = weights(NETWORKS["guided, by class"])
    upsampler = {**state, "input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}
    classifier = {name: value for name, value in state.items() if not name.startswith("output_blocks")}
    several = {**state, "output_blocks.1.2.in_layers.2.weight": torch.zeros(64, 64, 3, 3)}
    return {
        "optimizer": ({"state": {0: torch.zeros(1)}, "param_groups": [{"lr": 1}]}, "not a state dict"),
        "nested": ({"model": state, "ema": state}, "not a state dict"),
        "classifier": (classifier, "weights of a classifier"),
        "upsampler": (upsampler, "takes more than an image"),
        "diffusers": ({"conv_in.weight": torch.zeros(1), "down_blocks.0.x": torch.zeros(1)}, "without their config"),
        "resnet": ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "not the weights of a network"),
        "empty": ({}, "not the weights of a network"),
        "list": ([1, 2], "not a state dict"),
        "extra tensor": ({**state, "extra.weight": torch.zeros(3)}, "do not fit"),
        "missing tensor": ({name: each for name, each in state.items() if name != "middle_block.1.qkv.bias"}, "do not"),
        "missing block": ({name: each for name, each in state.items() if "input_blocks.3" not in name}, "not the"),
        "other shape": ({**state, "middle_block.1.qkv.bias": torch.zeros(3)}, "do not fit"),
        "scalar": ({**state, "time_embed.0.weight": torch.tensor(1.0)}, "not the weights of a network"),
        "both ways up": ({**several}, "do not fit|not the weights"),
        "labels and none": (
            {**state, "label_emb.weight": conditional["label_emb.weight"]},
            "not what the weights show",
        ),
        "integers": ({name: each.mul(100).to(torch.int8) for name, each in state.items()}, "no floating-point numbers"),
        "infinite": ({**state, "out.0.bias": torch.full((32,), math.inf)}, "not finite"),
        "four outputs": ({**state, "out.2.weight": torch.zeros(4, 32, 3, 3), "out.2.bias": torch.zeros(4)}, "not what"),
        "repeated numbers": ({**state, "out.0.bias": torch.zeros(1).expand(32)}, "not plain numbers"),
        "an object": ({"model": nn.Linear(1, 1)}, "not plain data"),
    }


@pytest.mark.parametrize("name", sorted(other_files()))
def test_files_of_something_else_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    state, says = other_files()[name]
    path = checkpoint(tmp_path, state=state)
    with pytest.raises(InputError, match=says) as caught:
        find_denoiser(path)
    assert len(str(caught.value)) < 1200 and str(tmp_path) in str(caught.value)


def test_a_part_of_a_file_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read|Git LFS pointer|refused") as caught:
            find_denoiser(path)
        assert str(path) in str(caught.value)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)

    class Mark:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    path.write_bytes(pickle.dumps(Mark()))
    with pytest.raises(InputError):
        find_denoiser(path)
    assert not (tmp_path / "ran").exists()


def test_a_small_file_cannot_ask_for_a_large_network(tmp_path: Path) -> None:
    flags = {**IMPROVED, "num_res_blocks": 3}
    state = weights(flags)
    shared = torch.zeros(max(each.numel() for each in state.values()))
    same_memory = {name: shared[: each.numel()].reshape(each.shape) for name, each in state.items()}
    path = checkpoint(tmp_path, flags, same_memory)
    assert path.stat().st_size < sum(each.numel() for each in state.values())
    with pytest.raises(InputError, match="do not fit the network") as caught:
        find_denoiser(path)
    assert "numbers" in str(caught.value.found)


def test_widths_that_cannot_be_normalised_are_refused(tmp_path: Path) -> None:
    odd = {name: value.repeat_interleave(1, 0) for name, value in weights().items()}
    odd["input_blocks.1.0.out_layers.3.weight"] = torch.zeros(40, 40, 3, 3)
    with pytest.raises(InputError):
        find_denoiser(checkpoint(tmp_path, state=odd, channel_mult="remove", use_scale_shift_norm="remove"))


@pytest.mark.parametrize("name", ["card.json", "x.zip", "notes"])
def test_other_files_are_no_denoisers(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="not a denoiser"):
        find_denoiser(tmp_path / name)


# where users name it


def test_info_shows_a_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, NETWORKS["guided, by class"], name="model500000")
    (tmp_path / "ema_0.9999_500000.pt").touch()
    found = CliRunner().invoke(program, ["denoiser", "info", str(path)], catch_exceptions=False)
    assert found.exit_code == 0
    for text in ("UNetModel [32, 32, 96]", "class 4 of 5", "cosine", "16 px", "noise_schedule=cosine"):
        assert text in found.output
    assert "ema_0.9999_500000.pt beside it often denoises better" in " ".join(found.output.split())


def test_a_defense_takes_a_checkpoint_and_tells_what_it_was(tmp_path: Path) -> None:
    flags = {**IMPROVED, "image_size": 8, "attention_resolutions": "4", "class_cond": True, "class_label": 2}
    case = tiny_case()
    values = {
        "denoiser": str(checkpoint(tmp_path, flags)),
        "purification": {"level": {"steps": 25, "of": 1000}, "steps": 2},
    }
    outcome = get_defense("eclipse")(**values).run(case, Context(quiet=True))
    assert case.train is not None and outcome.train is not None
    changed = outcome.train.read(slice(None)) != case.train.read(slice(None))
    assert changed.any((1, 2, 3)).all() and np.array_equal(outcome.train.ids, case.train.ids)
    assert any("class 2" in note for note in outcome.notes)
    assert any("not on record" in note for note in outcome.notes)
