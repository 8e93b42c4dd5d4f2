"""Denoiser folders as trainings, tools and downloads leave them: which weights are read, and why others are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from elixir_plugin.cli.app import program
from elixir_plugin.core.context import Context
from elixir_plugin.defense import get_defense
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser, find_denoiser, load_denoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture, build_unet
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import InputError
from elixir_plugin.testing.defenses import tiny_case

PLAN = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})
STEM = "diffusion_pytorch_model"
Files = dict[str, Callable[[], dict[str, Tensor]]]


def made(seed: int) -> UNetDenoiser:
    unet = build_unet(PLAN, 8, 3, True)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    return UNetDenoiser(unet.requires_grad_(False), Schedule("linear", 1000), variance="learned_range")


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    for seed, name in enumerate(("plain", "averaged")):
        made(seed).save(folder / name)
    return folder


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    """A folder whose ``unet`` holds the plain weights; ``averaged`` beside it holds the averaged ones."""
    return Path(shutil.copytree(saved_once, tmp_path / "d")) / "plain"


def weights(folder: Path, which: str = "plain") -> dict[str, Tensor]:
    return load_file(folder.parent / which / "unet" / f"{STEM}.safetensors")


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() for name, value in state.items()}


def rounded(folder: Path) -> Tensor:
    """Return what the network predicts with weights rounded to float16, computed in float32."""
    unet = made(0)
    unet.network.load_state_dict({name: value.half().float() for name, value in weights(folder).items()})
    return unet.predict(*states()).eps


def states() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 900])


def write_shards(
    folder: Path, state: dict[str, Tensor], kind: str = "safetensors", variant: str = "", count: int = 3
) -> tuple[Path, list[Path]]:
    """Write *state* in shards as diffusers does, and return the index and the shards."""
    dotted = f".{variant}" if variant else ""
    names = sorted(state)
    files, places = [], {}
    for number in range(count):
        part = {name: state[name] for name in names[number::count]}
        files.append(folder / f"{STEM}{dotted}-{number + 1:05d}-of-{count:05d}.{kind}")
        save_file(part, files[-1]) if kind == "safetensors" else torch.save(part, files[-1])
        places |= dict.fromkeys(part, files[-1].name)
    index = folder / f"{STEM}.{kind}.index{dotted}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index, files


def edit_index(index: Path, change: Callable[[dict[str, str]], Any]) -> None:
    values = json.loads(index.read_text())
    change(values["weight_map"])
    index.write_text(json.dumps(values))


# what is read


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_only_variant_is_read_in_float32_and_told(saved: Path, kind: str, sharded: bool) -> None:
    state, expected = half(weights(saved)), rounded(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    path = saved / f"unet/{STEM}.fp16.{kind}"
    if sharded:
        path, _ = write_shards(saved / "unet", state, kind, "fp16")
    else:
        save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    found = load_denoiser(saved)
    assert torch.equal(found.predict(*states()).eps, expected)
    assert all(each.dtype == torch.float32 for each in found.network.parameters())
    assert len(found.notes) == 1 and path.name in found.notes[0] and "float32" in found.notes[0]


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema", "ema"])
def test_usual_weights_come_before_variants_and_it_is_told(saved: Path, variant: str) -> None:
    before = load_denoiser(saved)
    assert before.notes == ()
    save_file(weights(saved, "averaged"), saved / f"unet/{STEM}.{variant}.safetensors")
    after = load_denoiser(saved)
    assert after.fingerprint() == before.fingerprint()
    assert len(after.notes) == 1 and f"{STEM}.{variant}.safetensors" in after.notes[0]
    (saved / f"unet/{STEM}.safetensors").unlink()
    other = load_denoiser(saved)
    assert other.fingerprint() == load_denoiser(saved.parent / "averaged").fingerprint() != before.fingerprint()
    assert f"variant {variant}" in other.notes[0]


def test_several_variants_are_refused_by_name(saved: Path) -> None:
    (saved / f"unet/{STEM}.safetensors").rename(saved / f"unet/{STEM}.non_ema.safetensors")
    save_file(half(weights(saved, "averaged")), saved / f"unet/{STEM}.fp16.safetensors")
    with pytest.raises(InputError, match="several variants") as caught:
        load_denoiser(saved)
    assert "non_ema" in str(caught.value.found) and "fp16" in str(caught.value.found)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_are_the_whole(saved: Path, kind: str, count: int) -> None:
    expected, state = load_denoiser(saved).fingerprint(), weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    write_shards(saved / "unet", state, kind, count=count)
    found = load_denoiser(saved)
    assert found.fingerprint() == expected and found.notes == ()


def test_shards_that_diffusers_wrote_are_read(saved: Path) -> None:
    from diffusers import UNet2DModel

    theirs = UNet2DModel.from_pretrained(saved, subfolder="unet")
    expected = load_denoiser(saved).predict(*states()).eps
    shutil.rmtree(saved / "unet")
    theirs.save_pretrained(saved / "unet", max_shard_size="20KB", variant="fp16")
    assert len(list((saved / "unet").glob("*.safetensors"))) > 2
    found = load_denoiser(saved)
    assert torch.equal(found.predict(*states()).eps, expected) and "variant fp16" in found.notes[0]


def test_shards_may_be_links_as_in_a_cache(saved: Path) -> None:
    expected, state = load_denoiser(saved).fingerprint(), weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    _, files = write_shards(saved / "unet", state)
    (saved.parent / "blobs").mkdir()
    for file in files:
        blob = file.rename(saved.parent / "blobs" / file.name)
        file.symlink_to(blob)
    assert load_denoiser(saved).fingerprint() == expected


@pytest.mark.parametrize("name", ["unet_ema", "ema_unet", "ema"])
def test_averaged_weights_are_read_where_they_are_alone(saved: Path, name: str) -> None:
    plain, averaged = (load_denoiser(saved.parent / each).fingerprint() for each in ("plain", "averaged"))
    shutil.copytree(saved.parent / "averaged/unet", saved / name)
    config = saved / name / "config.json"
    training = {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 500, "power": 0.75}
    training |= {"update_after_step": 0, "use_ema_warmup": True}
    config.write_text(json.dumps(json.loads(config.read_text()) | training))
    both = load_denoiser(saved)
    assert both.fingerprint() == plain and len(both.notes) == 1
    assert f"{name}/" in both.notes[0] and "unet/" in both.notes[0]
    shutil.rmtree(saved / "unet")
    alone = load_denoiser(saved)
    assert alone.fingerprint() == averaged and f"averaged ones in {name}/" in alone.notes[0]


def test_averaged_weights_that_diffusers_wrote_are_read(saved: Path) -> None:
    from diffusers import UNet2DModel
    from diffusers.training_utils import EMAModel

    theirs = UNet2DModel.from_pretrained(saved, subfolder="unet")
    averaged = EMAModel(theirs.parameters(), model_cls=UNet2DModel, model_config=theirs.config)
    averaged.save_pretrained(saved / "unet_ema")
    expected = load_denoiser(saved).predict(*states()).eps
    shutil.rmtree(saved / "unet")
    assert torch.equal(load_denoiser(saved).predict(*states()).eps, expected)


def test_half_averaged_folders_do_not_stand_in(saved: Path) -> None:
    shutil.copytree(saved.parent / "averaged/unet", saved / "unet_ema")
    (saved / "unet/config.json").unlink()
    with pytest.raises(InputError, match="not a complete denoiser folder") as caught:
        load_denoiser(saved)
    assert "config.json" in str(caught.value.found) and "remove it to use the averaged weights" in str(caught.value)


def test_safe_files_come_before_pickles(saved: Path) -> None:
    expected = load_denoiser(saved).fingerprint()
    for name in (f"{STEM}.bin", f"{STEM}.bin.index.json"):
        (saved / "unet" / name).write_bytes(b"not read")
    assert load_denoiser(saved).fingerprint() == expected
    state = weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    write_shards(saved / "unet", state)
    assert load_denoiser(saved).fingerprint() == expected


def test_other_floating_points_are_read(saved: Path) -> None:
    path = saved / f"unet/{STEM}.safetensors"
    expected = load_denoiser(saved).fingerprint()
    save_file({name: value.double() for name, value in weights(saved).items()}, path)
    assert load_denoiser(saved).fingerprint() == expected


# what is refused


def test_missing_shards_are_named(saved: Path) -> None:
    state = weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    index, files = write_shards(saved / "unet", state)
    files[1].unlink()
    with pytest.raises(InputError, match="shard of the weights is missing") as caught:
        load_denoiser(saved)
    assert files[1].name in str(caught.value.found) and files[0].name not in str(caught.value.found)
    files[0].unlink(), files[2].unlink()
    with pytest.raises(InputError) as caught:
        load_denoiser(saved)
    assert all(each.name in str(caught.value.found) for each in files)
    index.unlink()
    for file in files:
        file.touch()
    with pytest.raises(InputError, match="without their index") as caught:
        load_denoiser(saved)
    assert files[0].name in str(caught.value.found) and "index.json" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../unet/x.safetensors",
        "../../secret.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        ".hidden.safetensors",
        "x\x00.safetensors",
        "",
        "x.bin",
        "x.safetensors.json",
        "a\\b.safetensors",
    ],
)
def test_an_index_cannot_name_other_files(saved: Path, name: str) -> None:
    state = weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    index, _ = write_shards(saved / "unet", state)
    (saved.parent.parent / "secret.safetensors").write_bytes(b"")
    edit_index(index, lambda places: places.update({next(iter(places)): name}))
    with pytest.raises(InputError, match=r"names a file that is no shard|text that cannot be written") as caught:
        load_denoiser(saved)
    assert str(index) in str(caught.value)


@pytest.mark.parametrize("values", [[], {}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}}, None])
def test_an_index_is_not_believed(saved: Path, values: Any) -> None:
    state = weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    index, _ = write_shards(saved / "unet", state)
    index.write_text(json.dumps(values))
    with pytest.raises(InputError, match="not the index of shards"):
        load_denoiser(saved)
    index.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_denoiser(saved)


def test_shards_and_index_must_agree(saved: Path) -> None:
    state = weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    index, files = write_shards(saved / "unet", state)
    name = sorted(state)[1]  # of the second shard
    save_file(load_file(files[0]) | {name: state[name] + 1}, files[0])
    with pytest.raises(InputError, match=r"index and shards do not belong together|the same tensor") as caught:
        load_denoiser(saved)
    assert name in str(caught.value)
    edit_index(index, lambda places: places.update({name: files[0].name}))
    with pytest.raises(InputError, match="two shards hold the same tensor") as caught:
        load_denoiser(saved)
    assert name in str(caught.value.found)
    index, files = write_shards(saved / "unet", state)
    edit_index(index, lambda places: places.update({"more.weight": files[0].name}))
    with pytest.raises(InputError, match="do not belong together") as caught:
        load_denoiser(saved)
    assert "more.weight" in str(caught.value.found)
    index, files = write_shards(saved / "unet", state)
    edit_index(index, lambda places: places.pop(name))
    with pytest.raises(InputError, match="do not belong together"):
        load_denoiser(saved)
    write_shards(saved / "unet", state | {"extra.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="do not fit") as caught:
        load_denoiser(saved)
    assert "extra.weight" in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_part_of_a_file_is_refused_with_the_reason(saved: Path, kind: str, sharded: bool) -> None:
    state = weights(saved)
    path = saved / f"unet/{STEM}.{kind}"
    (saved / f"unet/{STEM}.safetensors").unlink()
    if sharded:
        path = write_shards(saved / "unet", state, kind)[1][1]
    elif kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    whole = path.read_bytes()
    for content, says in (
        (whole[:-100], "stopped halfway"),
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_denoiser(saved)
        assert says in str(caught.value) and str(path) in str(caught.value)


def test_weights_of_another_network_say_what_to_do(saved: Path) -> None:
    path = saved / f"unet/{STEM}.safetensors"
    state = weights(saved)
    wide = {name.replace("down_blocks", "other_blocks"): value for name, value in state.items()}
    for given in (wide, dict(list(state.items())[:5]), state | {"more": torch.zeros(2)}):
        save_file(given, path)
        with pytest.raises(InputError, match="do not fit") as caught:
            load_denoiser(saved)
        assert "fetch both from the same place" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_points_are_refused(saved: Path, dtype: torch.dtype) -> None:
    state = weights(saved)
    name = sorted(state)[3]
    state[name] = state[name].to(dtype)
    (saved / f"unet/{STEM}.safetensors").unlink()
    torch.save(state, saved / f"unet/{STEM}.bin")
    with pytest.raises(InputError, match="no floating-point numbers") as caught:
        load_denoiser(saved)
    assert name in str(caught.value.found) and "quantised" in str(caught.value)


def test_objects_in_a_shard_are_refused(saved: Path) -> None:
    state = weights(saved)
    (saved / f"unet/{STEM}.safetensors").unlink()
    _, files = write_shards(saved / "unet", state, "bin")
    torch.save({"a": torch.nn.Linear(1, 1)}, files[2])
    with pytest.raises(InputError, match="not plain data"):
        load_denoiser(saved)


# what is missing, and the true reason


def folder_of(saved: Path, *files: str, without: tuple[str, ...] = ()) -> Path:
    for name in files:
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_bytes(b"x")
    for name in without:
        path = saved / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return saved


@pytest.mark.parametrize(
    ("files", "without", "says"),
    [
        (("optimizer.bin", "random_states_0.pkl", "scheduler.bin"), ("scheduler",), "middle of a training"),
        ((), ("scheduler",), "the folder scheduler/ of the pipeline"),
        ((f"unet/{STEM}.msgpack",), (f"unet/{STEM}.safetensors",), "stopped halfway"),
        (("unet/diffusion_flax_model.msgpack",), (f"unet/{STEM}.safetensors",), "diffusion_flax_model.msgpack"),
        (("unet/model.safetensors",), (f"unet/{STEM}.safetensors",), "in a form that is not read"),
        (("unet/pytorch_lora_weights.safetensors",), (f"unet/{STEM}.safetensors",), "pytorch_lora_weights"),
        (("ema_0.9999_500000.pt",), ("unet", "scheduler"), "name the file itself"),
        ((), ("unet", "scheduler"), "stopped halfway"),
        ((), ("unet/config.json",), "config.json"),
    ],
)
def test_what_is_missing_is_said_with_the_next_step(
    saved: Path, files: tuple[str, ...], without: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match="not a complete denoiser folder") as caught:
        load_denoiser(folder_of(saved, *files, without=without))
    assert says in str(caught.value)


def test_a_complete_folder_inside_is_pointed_at(saved: Path) -> None:
    with pytest.raises(InputError, match="not a complete denoiser folder") as caught:
        load_denoiser(saved.parent)
    assert str(saved) in str(caught.value) and str(saved.parent / "averaged") in str(caught.value)


def test_a_text_to_image_network_says_what_takes_it(saved: Path) -> None:
    config = saved / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(InputError, match="unknown network") as caught:
        load_denoiser(saved)
    assert "image_variations" in str(caught.value) and "weights=FOLDER" in str(caught.value)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_another_sampler_of_the_same_chain_says_what_to_write(saved: Path, name: str) -> None:
    path = saved / "scheduler/scheduler_config.json"
    expected = load_denoiser(saved).fingerprint()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    with pytest.raises(InputError, match="unknown scheduler") as caught:
        load_denoiser(saved)
    hint = str(caught.value.hint)
    path.write_text(json.dumps(json.loads(path.read_text()) | json.loads("{" + hint.partition("write ")[2] + "}")))
    assert load_denoiser(saved).fingerprint() == expected


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_betas_one_by_one_are_refused_in_a_few_words(saved: Path, count: int) -> None:
    path = saved / "scheduler/scheduler_config.json"
    betas = [1e-4 + 1e-5 * step for step in range(count)]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_betas": betas}))
    with pytest.raises(InputError, match="config refused") as caught:
        load_denoiser(saved)
    assert len(str(caught.value)) < 600 and "betas given one by one are not taken" in str(caught.value)
    assert count < 1000 or "(1,000 in all)" in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"down_block_types": ["X"] * 5000}, {"block_out_channels": [-1] * 5000}, {"a" * 9000: 1}]
)
def test_no_config_makes_a_long_message(saved: Path, values: dict[str, Any]) -> None:
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        path = saved / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(InputError) as caught:
        load_denoiser(saved)
    assert len(str(caught.value)) < 1300


# where it is told


def test_the_choice_is_told_by_info_and_by_defenses(saved: Path) -> None:
    shutil.copytree(saved.parent / "averaged/unet", saved / "unet_ema")
    save_file(half(weights(saved)), saved / f"unet/{STEM}.fp16.safetensors")
    notes = load_denoiser(saved).notes
    assert len(notes) == 2
    shown = CliRunner().invoke(program, ["denoiser", "info", str(saved)], catch_exceptions=False).output
    assert all(f"note: {note}" in shown for note in notes)
    case = tiny_case()
    few = {"level": {"steps": 25, "of": 1000}, "steps": 2}
    outcome = get_defense("eclipse")(denoiser=str(saved), purification=few).run(case, Context(quiet=True))
    assert all(note in outcome.notes for note in notes)
    assert outcome.train is not None and np.isfinite(outcome.train.read(slice(None))).all()


def test_the_hub_is_asked_for_shards_and_variants_before_pickles(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / f"unet/{STEM}.safetensors").rename(saved / f"unet/{STEM}.fp16.safetensors")
    asked: list[list[str]] = []

    def download(_: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert "variant fp16" in find_denoiser("owner/name").notes[0]
    assert len(asked) == 2 and not any(each.endswith(".bin") for patterns in asked for each in patterns)
