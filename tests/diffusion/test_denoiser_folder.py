"""Denoiser folders: what is written can be read, also by diffusers; what is broken or foreign gets one clear error."""

from __future__ import annotations

import errno
import inspect
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.pixels import as_float
from elixir_plugin.diffusion.denoisers import denoiser as module
from elixir_plugin.diffusion.denoisers import hub
from elixir_plugin.diffusion.denoisers.base import Denoiser
from elixir_plugin.diffusion.denoisers.checks import UNetConfig
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser, find_denoiser, hexadecimal, load_denoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture, build_unet, instantiate
from elixir_plugin.diffusion.denoisers.weight_files import read_weights
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import ElixirError, InputError, RunError, SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.training import checkpoint

TOY = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})
PLAIN = Architecture((8, 16), 1, (False, True), {**SIZES["ddpm"].options, "attention_head_dim": 8})
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def network(plan: Architecture = TOY, learn_sigma: bool = True, channels: int = 3) -> nn.Module:
    unet = build_unet(plan, 8, channels, learn_sigma)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return unet.requires_grad_(False)


def toy(**options: Any) -> UNetDenoiser:
    options = {"variance": "learned_range", "timestep_scale": 0.25, "trained_steps": 200, **options}
    return UNetDenoiser(network(), Schedule("cosine", 4000), card={"origin": "a test"}, **options)


def states() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 7, 199])


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoisers") / "toy"
    toy().save(folder)
    return folder


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once, tmp_path / "toy"))


def edit(path: Path, **values: Any) -> None:
    config = json.loads(path.read_text())
    config.update(values)
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "remove"}))


# round trip


def test_what_is_saved_is_loaded(saved: Path) -> None:
    before, after = toy(), load_denoiser(saved)
    first, second = before.predict(*states()), after.predict(*states())
    assert torch.equal(first.eps, second.eps) and first.variance is not None and second.variance is not None
    assert torch.equal(first.variance, second.variance)
    assert (after.schedule, after.variance, after.trained_steps, after.stride) == (
        Schedule("cosine", 4000),
        *after_facts(),
    )
    assert (after.timestep_scale, after.image_size, after.channels) == (0.25, 8, 3)
    assert after.card == {"origin": "a test"} and after.fingerprint() == before.fingerprint()
    assert not after.network.training and not any(each.requires_grad for each in after.network.parameters())


def after_facts() -> tuple[Any, ...]:
    return "learned_range", 200, 2


def test_timesteps_and_trained_range_survive_without_the_card(saved: Path) -> None:
    (saved / "card.json").unlink()
    loaded = load_denoiser(saved)
    assert (loaded.timestep_scale, loaded.trained_steps) == (0.25, 200)
    assert torch.equal(loaded.predict(*states()).eps, toy().predict(*states()).eps)


def test_diffusers_loads_the_folder_and_agrees(saved: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DModel

    theirs = UNet2DModel.from_pretrained(saved, subfolder="unet").eval()
    scheduler = DDPMScheduler.from_pretrained(saved, subfolder="scheduler")
    ours = load_denoiser(saved)
    images, indices = states()
    with torch.inference_mode():
        output = theirs(images, indices * 0.25, return_dict=False)[0]  # the folder's timestep_scale
    prediction = ours.predict(images, indices)
    assert prediction.variance is not None
    assert torch.allclose(output, torch.cat([prediction.eps, prediction.variance], 1), atol=1e-6)
    assert scheduler.config.variance_type == "learned_range" and scheduler.config.prediction_type == "epsilon"
    assert torch.allclose(scheduler.alphas_cumprod.double(), ours.schedule.alphas_cumprod, atol=1e-5)
    assert theirs.config["_elixir_plugin"]["timestep_scale"] == 0.25


def test_defaults_of_the_accepted_arguments_are_those_of_diffusers() -> None:
    from diffusers import UNet2DModel

    theirs = {name: each.default for name, each in inspect.signature(UNet2DModel.__init__).parameters.items()}
    ours = {name: each.default for name, each in UNetConfig.model_fields.items()}
    assert {name: value for name, value in theirs.items() if name != "self"} == {name: ours[name] for name in ours}


@pytest.mark.parametrize("schedule", [Schedule("linear", 1000), Schedule("scaled_linear", 50, 0.001, 0.012)])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_other_chains_and_variances_survive(schedule: Schedule, variance: Any, tmp_path: Path) -> None:
    made = UNetDenoiser(network(PLAIN, learn_sigma=False), schedule, variance=variance)
    made.save(tmp_path / "d")
    loaded = load_denoiser(tmp_path / "d")
    assert (loaded.schedule, loaded.variance, loaded.trained_steps) == (schedule, variance, schedule.length)
    assert loaded.predict(*states()).variance is None


def test_fingerprints_follow_weights_chain_and_variance(saved: Path) -> None:
    first = load_denoiser(saved)
    others = [load_denoiser(saved, variance="fixed_large"), load_denoiser(saved), load_denoiser(saved)]
    others[1].schedule = Schedule("cosine", 1000)
    next(others[2].network.parameters()).view(-1)[0] += 1e-6
    assert len({first.fingerprint(), *(each.fingerprint() for each in others)}) == 4
    first.network.to(memory_format=torch.channels_last)
    assert first.fingerprint() == load_denoiser(saved).fingerprint()


def test_the_variance_may_be_chosen(saved: Path) -> None:
    chosen = UNetDenoiser.load(saved, variance="fixed_large")
    assert chosen.variance == "fixed_large"
    prediction = chosen.predict(*states())
    assert prediction.variance is None and torch.equal(prediction.eps, toy().predict(*states()).eps)
    with pytest.raises(SettingsError, match="unknown variance"):
        load_denoiser(saved, variance="large")  # type: ignore[arg-type]


def test_training_images_are_recognised() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    images = ImageSet(pixels, [0] * 6, 1)
    made = toy()
    made.card["images"] = {"content": hexadecimal(images.subset([1, 4]))}
    assert made.seen(images).tolist() == [False, True, False, False, True, False]
    assert toy().seen(images).tolist() == [False] * 6
    assert all(len(each) == 32 for each in hexadecimal(images))


def test_training_images_are_recognised_in_the_other_type_of_pixel() -> None:
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8), [0] * 6, 1)
    faint = images.replace(images=np.clip(as_float(images).read(slice(None)) + np.float32(0.001), 0, 1))
    for seen, shown in ((images, as_float(images)), (images, faint), (as_float(images), images)):
        made = toy()
        made.card["images"] = {"content": hexadecimal(seen.subset([1, 4]))}
        assert made.seen(shown).tolist() == [False, True, False, False, True, False]
    assert made.seen(images.subset([])).tolist() == []


# folders of others


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder as other people's tools write it: files side by side, old attention names, an old scheduler config."""
    made = UNetDenoiser(network(PLAIN, learn_sigma=False), Schedule("linear", 1000), variance="fixed_large")
    made.save(tmp_path / "made")
    folder = tmp_path / "foreign"
    folder.mkdir()
    shutil.copy(tmp_path / "made/unet/config.json", folder)
    edit(folder / "config.json", _elixir_plugin="remove", attn_norm_num_groups="remove")
    weights = load_file(tmp_path / "made" / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        weights = {key.replace(f".{new}.", f".{name}."): value for key, value in weights.items()}
    assert any(".proj_attn." in key for key in weights)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_start": 0.0001}
    config |= {
        "beta_schedule": "linear",
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "variance_type": "fixed_large",
    }
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def test_a_flat_folder_with_old_names_is_read(foreign: Path, tmp_path: Path) -> None:
    loaded, made = load_denoiser(str(foreign)), load_denoiser(tmp_path / "made")
    assert torch.equal(loaded.predict(*states()).eps, made.predict(*states()).eps)
    assert (loaded.timestep_scale, loaded.trained_steps, loaded.variance) == (1.0, 1000, "fixed_large")
    assert loaded.card["source"] == str(foreign)


def test_the_usual_model_of_the_hub_is_the_ddpm_size() -> None:
    usual = {
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": [128, 256, 256, 256],
        "center_input_sample": False,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 32,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    }
    with torch.device("meta"):
        theirs = instantiate(UNetConfig.build(usual).model_dump(exclude_defaults=True))
        ours = build_unet("ddpm", 32)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (theirs, ours)]
    assert shapes[0] == shapes[1]
    configs: list[dict[str, Any]] = [dict(each.config) for each in (theirs, ours)]  # type: ignore[arg-type]
    different = {name for name, value in configs[0].items() if configs[1][name] != value and name[0] != "_"}
    assert different <= {"attn_norm_num_groups", "act_fn"}  # the same GroupNorm, said explicitly


def test_half_precision_weights_become_float32(foreign: Path) -> None:
    path = foreign / "diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(path).items()}, path)
    assert load_denoiser(foreign).predict(*states()).eps.dtype == torch.float32


def test_plain_torch_weights_are_read_and_others_refused(foreign: Path) -> None:
    path = foreign / "diffusion_pytorch_model.safetensors"
    expected = load_denoiser(foreign).fingerprint()
    torch.save(load_file(path), foreign / "diffusion_pytorch_model.bin")
    path.unlink()
    assert load_denoiser(foreign).fingerprint() == expected
    torch.save({"w": nn.Linear(1, 1)}, foreign / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="not plain data"):
        load_denoiser(foreign)
    torch.save([1], foreign / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="not a state dict"):
        read_weights(foreign / "diffusion_pytorch_model.bin")


def test_a_foreign_network_without_groupnorm_is_refused(saved: Path) -> None:
    path = saved / "unet/config.json"
    edit(path, attn_norm_num_groups=None)
    weights = load_file(saved / WEIGHTS)
    save_file(
        {key: each for key, each in weights.items() if "mid_block.attentions.0.group_norm" not in key}, saved / WEIGHTS
    )
    with pytest.raises(InputError, match="without its GroupNorm") as caught:
        load_denoiser(saved)
    assert "config.json" in str(caught.value) and "mid_block.attentions.0" in str(caught.value)


# refusals


@pytest.mark.parametrize("name", ["unet/config.json", WEIGHTS, "scheduler/scheduler_config.json", "unet"])
def test_half_a_folder_is_refused_by_name(saved: Path, name: str) -> None:
    path = saved / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="not a complete denoiser folder") as caught:
        load_denoiser(saved)
    missing = {"unet": "config.json"}.get(name, Path(name).name)
    assert missing in str(caught.value.found)


@pytest.mark.parametrize("name", ["unet/config.json", WEIGHTS, "scheduler/scheduler_config.json", "card.json"])
@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"[1]"])
def test_damaged_files_are_refused(saved: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = saved / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        load_denoiser(saved)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DModel"),
        ({"_class_name": "remove"}, "UNet2DModel"),
        ({"cross_attention_dim": 8}, "unknown key"),
        ({"in_channels": 4}, "in_channels"),
        ({"out_channels": 2}, "out_channels"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"num_class_embeds": 10}, "num_class_embeds"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"center_input_sample": True}, "center_input_sample"),
        ({"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}, "down_block_types"),
        ({"down_block_types": ["DownBlock2D"]}, "differ in length"),
        ({"block_out_channels": [8, 10**9]}, "block_out_channels"),
        ({"block_out_channels": [8] * 9}, "block_out_channels"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"layers_per_block": 10**6}, "layers_per_block"),
        ({"time_embedding_dim": 10**9}, "time_embedding_dim"),
        ({"sample_size": 10**9}, "sample_size"),
        ({"sample_size": "../.."}, "sample_size"),
        ({"act_fn": "__import__"}, "act_fn"),
        ({"norm_num_groups": 3}, "network cannot be built"),
        ({"block_out_channels": [2048, 2048]}, "weights do not fit"),
        ({"block_out_channels": [8, 8]}, "weights do not fit"),
        ({"layers_per_block": 2}, "weights do not fit"),
        ({"_elixir_plugin": {"timestep_scale": 0}}, "timestep_scale"),
        ({"_elixir_plugin": {"timestep_scale": "1"}}, "timestep_scale"),
        ({"_elixir_plugin": {"timestep_scale": 10**400}}, "whole number out of range"),
        ({"_elixir_plugin": {"timestep_scale": float("nan")}}, "number is not finite"),
        ({"_elixir_plugin": {"trained_steps": 5000}}, "trained_steps"),
        ({"_elixir_plugin": {"image_size": -1}}, "image_size"),
        ({"_elixir_plugin": [1]}, "not a mapping"),
    ],
)
def test_network_configs_are_not_believed(saved: Path, values: dict[str, Any], says: str) -> None:
    edit(saved / "unet/config.json", **values)
    with pytest.raises(InputError) as caught:
        load_denoiser(saved)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"_class_name": "KarrasVeScheduler"}, "DDPMScheduler, DDIMScheduler"),
        ({"_class_name": ["DDPMScheduler"]}, "unknown scheduler"),
        ({"beta_schedule": "sigmoid"}, "squaredcos_cap_v2"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"prediction_type": "v_prediction"}, "epsilon"),
        ({"predict_epsilon": False}, "predict_epsilon"),
        ({"variance_type": "learned"}, "learned_range"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"beta_start": -1}, "beta_start"),
        ({"beta_start": 0.5, "beta_schedule": "linear"}, "beta"),
    ],
)
def test_scheduler_configs_are_not_believed(saved: Path, values: dict[str, Any], says: str) -> None:
    edit(saved / "scheduler/scheduler_config.json", **values)
    with pytest.raises(ElixirError) as caught:
        load_denoiser(saved)
    assert isinstance(caught.value, InputError) and says in str(caught.value)


@pytest.mark.parametrize("curves", [[1], None, {"loss": 3}, {"loss": None}, {"loss": ["high"]}])
def test_curves_of_a_card_are_not_believed(saved: Path, curves: Any) -> None:
    edit(saved / "card.json", curves=curves)
    with pytest.raises(InputError, match="card refused"):
        load_denoiser(saved)
    edit(saved / "card.json", curves={"block": 250, "loss": [1, 0.5]})
    assert load_denoiser(saved).card["curves"]["loss"] == [1, 0.5]


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, saved / WEIGHTS)
    with pytest.raises(InputError, match="not finite"):
        load_denoiser(saved)


def test_learned_variance_takes_a_network_that_has_one(foreign: Path) -> None:
    edit(foreign / "scheduler_config.json", variance_type="learned_range")
    with pytest.raises(InputError, match="predicts no variance"):
        load_denoiser(foreign)
    assert load_denoiser(foreign, variance="fixed_small").variance == "fixed_small"


# writing


def test_a_full_disk_leaves_the_older_folder_and_nothing_half_written(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.relative_to(saved) for path in saved.rglob("*"))
    expected = load_denoiser(saved).fingerprint()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(RunError, match="cannot write") as caught:
        toy(trained_steps=1).save(saved)
    assert "No space left" in str(caught.value)
    assert sorted(path.relative_to(saved) for path in saved.rglob("*")) == before
    assert load_denoiser(saved).fingerprint() == expected
    assert list(saved.parent.iterdir()) == [saved]


def test_files_are_readable_for_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        toy().save(tmp_path / "d")
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "d").rglob("*") if path.is_file()} == {"0o644"}


@contextmanager
def small_files() -> Iterator[None]:
    """Let the system refuse to write more than 20 kB to one file; pytest's own log is one, so not for a whole test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_the_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    with small_files(), pytest.raises(RunError, match="cannot write"):
        toy().save(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


# sources


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def unreachable(name: str, **options: Any) -> str:
        calls.append((name, options))
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    return calls


def test_a_hub_that_cannot_be_reached_says_how_to_go_on(offline: list[Any]) -> None:
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        load_denoiser("google/ddpm-cifar10-32")
    assert offline[0][0] == "google/ddpm-cifar10-32"
    assert all(text in str(caught.value) for text in ("no route to host", "--local-dir", "path"))


def test_the_hub_is_kept_to_its_cache_when_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", no_network)
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        load_denoiser("nobody/nothing")
    assert "AssertionError" not in str(caught.value)


def test_a_folder_never_touches_the_network(saved: Path, offline: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (saved.parent / "google").mkdir()
    shutil.move(saved, saved.parent / "google" / "ddpm-cifar10-32")
    monkeypatch.chdir(saved.parent)
    assert load_denoiser("google/ddpm-cifar10-32").trained_steps == 200
    assert offline == []


def test_a_fetched_model_is_read_like_a_folder(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        fetched.append(allow_patterns)
        return str(foreign)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_denoiser("someone/something").card["source"] == "someone/something"
    assert len(fetched) == 1 and not any(each.endswith(".bin") for each in fetched[0])
    path = foreign / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), foreign / "diffusion_pytorch_model.bin")
    path.unlink()
    load_denoiser("someone/something")
    assert not any(each.endswith(".bin") for each in fetched[2])  # shards and variants are asked for first
    assert any(each.endswith(".bin") for each in fetched[3])


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "/nowhere/at/all", "../x", "owner/../name", ""])
def test_what_is_neither_folder_nor_name_is_refused(source: str, offline: list[Any]) -> None:
    with pytest.raises(InputError):
        load_denoiser(source)
    assert offline == []


def test_a_file_is_no_denoiser(saved: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_denoiser(saved / "card.json")


def test_hub_names() -> None:
    assert hub.is_hub_name("google/ddpm-cifar10-32") and not hub.is_hub_name("google")


class Offering:
    """A plugin with one denoiser."""

    @staticmethod
    @hookimpl
    def elixir_denoisers() -> list[Entry]:
        return [Entry("house_denoiser", make)]


def make(image_size: int, channels: int) -> Denoiser:
    assert (image_size, channels) == (8, 3)
    return toy(image_size=image_size)


def test_a_name_a_plugin_offers_is_found(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    from elixir_plugin.plugins import Plugins

    mine = Plugins([])
    mine.register(Offering, "mine")
    monkeypatch.setattr(module, "plugins", lambda: mine)
    assert find_denoiser("house_denoiser", image_size=8).image_size == 8
    with pytest.raises(SettingsError, match="one image size"):
        find_denoiser("house_denoiser")
    with pytest.raises(InputError, match="not found") as caught:
        find_denoiser("house")
    assert "house_denoiser" in str(caught.value)
    saved.rename(saved.parent / "house_denoiser")
    monkeypatch.chdir(saved.parent)
    assert find_denoiser("house_denoiser").trained_steps == 200
    assert plugins() is not mine
