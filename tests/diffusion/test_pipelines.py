"""Every diffusers pipeline, with tiny random weights, through the real loading and calling code; no network."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from elixir_plugin.defenses.image_variations.settings import ImageVariationsSettings
from elixir_plugin.defenses.image_variations.throughput import FEW, evaluations, measure
from elixir_plugin.defenses.image_variations.variations import VariationGenerator
from elixir_plugin.diffusion.generators import pipeline_files
from elixir_plugin.diffusion.generators.base import AdjustableGenerator, GeneratorSettings, find_generator
from elixir_plugin.diffusion.generators.pipelines import as_levels, least_strength
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.testing.defenses import tiny_case
from elixir_plugin.training import timing

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
EDGE, WIDTH = 16, 16  # of generated images, and of embeddings
CPU = torch.device("cpu")
SHORT: dict[str, Any] = {"num_inference_steps": 2, "gen_size": EDGE}


def images(count: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), np.uint8))


def unet(cross: int, classes: int | None = None) -> Any:
    from diffusers import UNet2DConditionModel

    extra = (
        {} if classes is None else {"class_embed_type": "projection", "projection_class_embeddings_input_dim": classes}
    )
    return UNet2DConditionModel(
        sample_size=EDGE // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=4,
        **extra,
    )


def vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def vision() -> dict[str, Any]:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    extractor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return {"image_encoder": CLIPVisionModelWithProjection(config), "feature_extractor": extractor}


def text(folder: Path) -> dict[str, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = ["a", "b", "a</w>", "b</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=8)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=5,
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(config)}


def build_image_variation(folder: Path) -> Any:
    from diffusers import StableDiffusionImageVariationPipeline as Pipeline

    return Pipeline(
        vae=vae(),
        unet=unet(WIDTH),
        scheduler=scheduler(),
        safety_checker=None,
        requires_safety_checker=False,
        **vision(),
    )


def build_versatile(folder: Path) -> Any:
    from diffusers import VersatileDiffusionImageVariationPipeline as Pipeline

    parts = vision()
    extractor = parts.pop("feature_extractor")
    return Pipeline(
        image_feature_extractor=extractor, image_unet=unet(WIDTH), vae=vae(), scheduler=scheduler(), **parts
    )


def build_unclip(folder: Path) -> Any:
    from diffusers import DDPMScheduler
    from diffusers import StableUnCLIPImg2ImgPipeline as Pipeline
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    return Pipeline(
        vae=vae(),
        unet=unet(WIDTH, classes=2 * WIDTH),
        scheduler=scheduler(),
        image_normalizer=StableUnCLIPImageNormalizer(WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        **vision(),
        **text(folder / "words"),
    )


def build_img2img(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline as Pipeline  # as img2img weights are usually published

    return Pipeline(
        vae=vae(),
        unet=unet(WIDTH),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **text(folder / "words"),
    )


BUILD: dict[str, Callable[[Path], Any]] = {
    "image_variation": build_image_variation,
    "versatile": build_versatile,
    "unclip": build_unclip,
    "img2img": build_img2img,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        for name, build in BUILD.items():
            found[name] = tmp_path_factory.mktemp(name)
            build(found[name]).save_pretrained(found[name] / "pipe")
    return {name: folder / "pipe" for name, folder in found.items()}


@cache
def loaded(name: str, folder: Path) -> Any:
    settings = GeneratorSettings.build({"weights": str(folder), **SHORT})
    return find_generator(name, settings, (8, 8, 3), CPU)


def load(name: str, folders: dict[str, Path], **values: Any) -> Any:
    """Return a generator with other settings on weights that were loaded before, which takes a second."""
    first = loaded(name, folders[name])
    return type(first)(first.pipe, GeneratorSettings.build({**SHORT, **values}), first.source)


@pytest.mark.parametrize("name", BUILD)
def test_variations_have_their_shape_and_their_own_seeds(name: str, folders: dict[str, Path]) -> None:
    values = {"strength": 1.0} if name == "img2img" else {}
    generator = load(name, folders, **values)
    given = images()[[0, 0, 0, 1]]  # three variations of one image, one of another
    seeds = torch.tensor([1, 2, 3, 1])
    made = generator.vary(given, seeds)
    assert made.shape == (4, 3, EDGE, EDGE) and made.dtype == torch.uint8 and made.device == CPU
    assert (made[0] != made[1]).any() and (made[1] != made[2]).any() and (made[0] != made[3]).any()
    order = torch.tensor([3, 1])  # another order, in other company, in batches of one
    again = load(name, folders, gen_batch_size=1, **values).vary(given[order], seeds[order])
    assert (again.int() - made[order].int()).abs().max() <= 1
    assert generator.facts()["source"] == str(folders[name]) and generator.facts()["dtype"] == "float32"


@pytest.mark.parametrize("name", BUILD)
def test_the_fingerprint_is_that_of_weights_and_choices(name: str, folders: dict[str, Path]) -> None:
    first, second = load(name, folders), load(name, folders)
    assert first.fingerprint() == second.fingerprint() == load(name, folders, gen_batch_size=1).fingerprint()
    assert first.fingerprint() != load(name, folders, num_inference_steps=3).fingerprint()
    weight = next(second.pipe.vae.parameters())
    with torch.no_grad():
        weight.add_(1)
        second._weights = None
        other = second.fingerprint()
        weight.sub_(1)
    assert first.fingerprint() != other


@pytest.mark.parametrize(("name", "scale"), [("image_variation", 3), ("versatile", 7.5), ("unclip", 10)])
def test_guidance_is_the_pipelines_own_unless_it_is_set(name: str, scale: float, folders: dict[str, Path]) -> None:
    assert load(name, folders).scale == scale
    plain, led = (load(name, folders, guidance_scale=value) for value in (1.0, 20.0))
    seeds = torch.arange(3)
    difference = (plain.vary(images(), seeds).int() - led.vary(images(), seeds).int()).abs()
    assert difference.max() > 2  # more than rounding


def test_img2img_refuses_guidance_before_it_loads_anything(folders: dict[str, Path]) -> None:
    settings = GeneratorSettings.build({"weights": "no such folder", "guidance_scale": 7.5})
    with pytest.raises(SettingsError, match="no prompt") as refusal:
        find_generator("img2img", settings, (8, 8, 3), CPU)
    assert refusal.value.where == "guidance_scale" and refusal.value.found == "7.5"
    assert "guidance_scale=null" in str(refusal.value)
    for value in (None, 0.0, 1.0):  # unset, or off
        settings = GeneratorSettings.build({"weights": str(folders["img2img"]), "guidance_scale": value, **SHORT})
        assert evaluations(find_generator("img2img", settings, (8, 8, 3), CPU)) == 1
    assert load("img2img", folders).scale == 1


def test_native_size_is_that_of_the_network(folders: dict[str, Path]) -> None:
    assert load("image_variation", folders, gen_size=None).size == EDGE
    assert load("versatile", folders, gen_size=24).vary(images(1), torch.arange(1)).shape == (1, 3, 24, 24)


def test_noise_on_the_embedding_changes_unclip(folders: dict[str, Path]) -> None:
    calm, noisy = (load("unclip", folders, noise_level=level) for level in (0, 900))
    assert (calm.vary(images(), torch.arange(3)) != noisy.vary(images(), torch.arange(3))).any()
    assert calm.fingerprint() != noisy.fingerprint()


@pytest.mark.parametrize(("name", "guided"), [("versatile", 2), ("image_variation", 2), ("unclip", 2), ("img2img", 1)])
def test_evaluations_are_known_beforehand_and_measured_on_short_walks(
    name: str, guided: int, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "CALLS", 1)
    generator = load(name, folders, num_inference_steps=12, strength=0.5)
    walked = 12 * guided if name != "img2img" else 6
    seen: list[int] = []
    network = getattr(generator.pipe, "image_unet", None) or generator.pipe.unet
    handle = network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    generator.vary(images(1), torch.arange(1))
    assert evaluations(generator) == sum(seen) == walked
    seen.clear()
    train = tiny_case().train
    assert train is not None
    throughput = measure(VariationGenerator(generator, ImageVariationsSettings(), train, 0), CPU)
    handle.remove()
    assert 0 < sum(seen) <= 5 * FEW * guided and throughput.once >= 0 and throughput.per_evaluation >= 0
    assert generator.steps == 12 and evaluations(generator) == walked  # left as it was


def test_img2img_has_a_strength(folders: dict[str, Path]) -> None:
    generator = load("img2img", folders, num_inference_steps=4)
    assert isinstance(generator, AdjustableGenerator) and generator.strengths == (0.25, 1.0)
    made, steps = {}, {}
    for strength in (0.25, 1.0):
        calls: list[int] = []
        handle = generator.pipe.unet.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        made[strength] = generator.with_strength(strength).vary(images(1), torch.arange(1))
        handle.remove()
        steps[strength] = len(calls)
    assert steps == {0.25: 1, 1.0: 4} and (made[0.25] != made[1.0]).any()
    with pytest.raises(SettingsError, match="no step"):
        generator.with_strength(0.2)


@pytest.mark.parametrize("steps", [1, 3, 49, 50, 98, 161, 1000])
def test_the_least_strength_that_img2img_offers_can_be_set(steps: int, folders: dict[str, Path]) -> None:
    generator = load("img2img", folders, num_inference_steps=steps)
    least = generator.strengths[0]
    assert least == pytest.approx(1 / steps, rel=1e-12)
    assert evaluations(generator.with_strength(least)) == 1
    with pytest.raises(SettingsError, match="no step") as caught:
        generator.with_strength(0.0)
    said = float(str(caught.value).partition("strength from ")[2].split()[0])
    assert evaluations(generator.with_strength(said)) == 1 and said - least < 1e-4


def test_no_number_of_steps_rounds_the_least_strength_away() -> None:
    assert all(int(steps * least_strength(steps)) == 1 for steps in range(1, 1001))


def test_safety_checkers_are_left_out(folders: dict[str, Path]) -> None:
    assert load("image_variation", folders).pipe.safety_checker is None
    assert load("img2img", folders).pipe.safety_checker is None


def test_numbers_that_are_not_finite_become_black() -> None:
    made = torch.full((2, 3, 4, 4), 0.5)
    made[1, 0, 0, 0] = torch.nan
    levels = as_levels(made)
    assert (levels[0] == 128).all() and (levels[1] == 0).all()


# folders and names


def test_a_folder_of_another_pipeline_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the folder of this pipeline") as refusal:
        load("unclip", {"unclip": folders["versatile"]})
    assert "VersatileDiffusion" in str(refusal.value)
    with pytest.raises(InputError, match="not the folder of this pipeline"):
        load("unclip", {"unclip": tmp_path})


def test_a_folder_that_names_foreign_code_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    index = json.loads((folders["versatile"] / "model_index.json").read_text())
    for part in (["os", "system"], ["my_module", "Model"], ["diffusers", "a.b"], ["diffusers"]):
        (tmp_path / "model_index.json").write_text(json.dumps({**index, "vae": part}))
        with pytest.raises(InputError, match="code from elsewhere"):
            load("versatile", {"versatile": tmp_path})


def test_a_damaged_folder_is_refused_with_what_to_do(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text((folders["versatile"] / "model_index.json").read_text())
    with pytest.raises(InputError, match="cannot be loaded") as refusal:
        load("versatile", {"versatile": tmp_path})
    assert "weights=FOLDER" in str(refusal.value)


@pytest.mark.parametrize(
    ("files", "safe"),
    [
        (["unet/diffusion_pytorch_model.safetensors", "encoder/model.safetensors"], True),
        (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"], True),
        (["encoder/model-00001-of-00002.safetensors", "encoder/pytorch_model-00001-of-00002.bin"], True),
        (["unet/diffusion_pytorch_model.safetensors", "safety_checker/pytorch_model.bin"], True),
        (["unet/diffusion_pytorch_model.safetensors", "encoder/pytorch_model.bin"], None),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin"], None),
    ],
)
def test_pickled_weights_are_opened_only_where_there_are_no_others(
    files: list[str], safe: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Pipeline:
        @staticmethod
        def from_pretrained(_: str, **options: Any) -> None:
            asked.append(options)

    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline"}))
    monkeypatch.setattr(pipeline_files, "pipeline_class", lambda _: Pipeline)
    pipeline_files.load_pipeline("Pipeline", ["Pipeline"], str(tmp_path), default="a/b", dtype=torch.float32)
    assert [each["use_safetensors"] for each in asked] == [safe]


@pytest.mark.parametrize("name", ["image_variation", "img2img"])
def test_a_folder_of_one_variant_is_loaded_in_float32_and_told(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    loaded(name, folders[name]).pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert pipeline_files.only_variant(tmp_path / "half") == "fp16"
    assert pipeline_files.only_variant(folders[name]) is None
    half, whole = loaded(name, tmp_path / "half"), loaded(name, folders[name])
    assert half.facts()["source"] == f"{tmp_path / 'half'} (variant fp16)" and half.pipe.unet.dtype == torch.float32
    mine, theirs = half.pipe.unet.state_dict(), whole.pipe.unet.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())


@pytest.mark.parametrize(
    ("files", "variant", "safe"),
    [
        (["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"], "fp16", True),
        (["unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "fp16", True),
        (["unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], "fp16", True),
        (["encoder/pytorch_model.fp16.bin", "unet/diffusion_pytorch_model.fp16.safetensors"], "fp16", False),
        (["encoder/model.fp16.safetensors", "encoder/pytorch_model.fp16.bin"], "fp16", True),
        (["encoder/model.safetensors", "encoder/model.fp16.safetensors"], None, True),
        (["unet_ema/diffusion_pytorch_model.ema.bin", "unet/diffusion_pytorch_model.safetensors"], None, True),
        (["safety_checker/model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors"], None, True),
        (
            ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"],
            "",
            True,
        ),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bf16.safetensors"], "", True),
    ],
)
def test_variants_of_pipelines_are_named(files: list[str], variant: str | None, safe: bool, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    if variant == "":
        with pytest.raises(InputError, match="several variants") as caught:
            pipeline_files.only_variant(tmp_path)
        assert "fp16" in str(caught.value.found)
        return
    assert pipeline_files.only_variant(tmp_path) == variant
    assert pipeline_files.only_safe(tmp_path) is safe


@pytest.mark.parametrize("name", BUILD)
def test_nothing_is_downloaded_unless_it_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> Any:
        asked.append({"repository": repository, **options})
        raise OSError("no network in tests")

    class Pipeline:
        def __init__(self, safety_checker: Any = None) -> None: ...

    Pipeline.download = staticmethod(download)  # type: ignore[attr-defined]
    monkeypatch.setattr(pipeline_files, "pipeline_class", lambda _: Pipeline)
    with pytest.raises(InputError, match="not on this machine") as refusal:
        find_generator(name, GeneratorSettings(), (8, 8, 3), CPU)
    assert "--local-dir FOLDER" in str(refusal.value) and "weights=" in str(refusal.value)
    with pytest.raises(InputError, match="cannot be fetched") as refusal:
        find_generator(name, GeneratorSettings(weights="owner/name@v1"), (8, 8, 3), CPU)
    assert "--revision v1" in str(refusal.value)
    assert [each["local_files_only"] for each in asked] == [True, False]
    assert asked[1]["repository"] == "owner/name" and asked[1]["revision"] == "v1"
    assert all(each["safety_checker"] is None for each in asked)
    with pytest.raises(InputError, match="pipeline not found"):
        find_generator(name, GeneratorSettings(weights="no such folder"), (8, 8, 3), CPU)
