"""Valid input of every kind that is read, small; hostile input takes the place of one part of it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from elixir_plugin.core.classifier.classifier import Classifier, build_module

EDGE = 8
NAMES = ("cat", "dog")


def pixels(count: int, edge: int = EDGE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, (count, edge, edge, 3), np.uint8)


def single(folder: Path) -> None:
    """One file of each kind that is read by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1)[0]).save(folder / "image.png")
    Image.fromarray(pixels(1)[0]).save(folder / "image.jpg")
    torch.save({"a": torch.arange(6).reshape(2, 3), "b": [1, "x", 2.5]}, folder / "data.pt")
    (folder / "data.pkl").write_bytes(pickle.dumps({"data": np.arange(6).reshape(2, 3), "labels": [0, 1]}))
    (folder / "data.json").write_text('{"a": [1, 2.5, "x", null], "b": {"c": true}}\n')
    save_file({"a": torch.arange(6).reshape(2, 3)}, folder / "data.safetensors")
    (folder / "data.yaml").write_text("a: [1, 2.5, x]\nb:\n  c: true\n")
    run = {"defense": "d3", "source": "image_folder:train", "settings": {"epochs": 1}, "seed": 0}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    compare = {"cases": ["testbed:badnets"], "defenses": ["d3"], "seeds": [0, 1]}
    (folder / "compare.yaml").write_text(yaml.safe_dump(compare))
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "classes.json").write_text('["cat", "dog"]\n')
    (folder / "index.txt").write_text("0\n1\n2\n")
    torch.save(network().state_dict(), folder / "model.pt")
    save_file(network().state_dict(), folder / "model.safetensors")
    checkpoint = {"epoch": 3, "state_dict": network().state_dict(), "optimizer": {"lr": 0.1}}
    torch.save(checkpoint, folder / "checkpoint.pth")


def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_module("fast_resnet", 2)


def classifier(folder: Path) -> None:
    Classifier(network(), 2, architecture="fast_resnet", classes=NAMES).save(folder)


def class_folders(folder: Path, count: int = 4, seed: int = 0) -> None:
    images = pixels(2 * count, seed=seed)
    for position, image in enumerate(images):
        file = folder / NAMES[position // count] / f"{position}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


def image_folder(folder: Path) -> None:
    """``train``, ``clean`` and ``test``, with a model and the names of the classes beside them."""
    for seed, name in enumerate(("train", "clean", "test")):
        class_folders(folder / "set" / name, seed=seed)
    classifier(folder / "model")
    torch.save(network().state_dict(), folder / "model.pt")
    (folder / "classes.txt").write_text("cat\ndog\n")


def arrays(folder: Path) -> None:
    folder.mkdir(parents=True)
    labels = np.arange(8) % 2
    parts = {"train": 0, "clean": 1, "test": 2}
    given = {f"x_{name}": pixels(8, seed=seed) for name, seed in parts.items()} | {
        f"y_{name}": labels for name in parts
    }
    np.savez(folder / "case.npz", **given, is_poison=labels == 1, y_original=labels)
    classifier(folder / "model")


def toolbox(folder: Path) -> None:
    """A set of backdoor-toolbox whose images are one tensor, and one with files, as clean and test sets are."""
    labels = torch.arange(12) % 10
    for directory in ("badnet_0.100_poison_seed=0", "blend_0.100_alpha=0.200_poison_seed=0"):
        made = folder / "poisoned_train_set" / "cifar10" / directory
        made.mkdir(parents=True)
        if directory.startswith("badnet"):
            torch.save(torch.from_numpy(pixels(12)).permute(0, 3, 1, 2).float().contiguous() / 255, made / "imgs")
        else:
            files(made / "data", 12)
        torch.save(labels, made / "labels")
        torch.save([0, 10], made / "poison_indices")
        torch.save([1], made / "cover_indices")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            torch.save(build_module("fast_resnet", 10).state_dict(), made / "full_base_aug_seed=2333.pt")
    for split, name in (("clean_split", "clean_labels"), ("test_split", "labels")):
        clean = folder / "clean_set" / "cifar10" / split
        files(clean / "data", 12)
        torch.save(labels, clean / name)
    (folder / "triggers").mkdir()
    for name in ("trigger.png", "mask_trigger.png"):
        Image.fromarray(pixels(1)[0]).save(folder / "triggers" / name)


def zoo(folder: Path) -> None:
    """A set of the zoo, made from digits of 8 pixels."""
    from elixir_plugin.zoo.entries import find_entry
    from elixir_plugin.zoo.make import make

    entry, options = find_entry("badnets_white_10pc"), {"size": 8, "clean": 40, "test": 1600}
    make(entry, folder / "made", to="arrays", options=options, model=False)


def grid(folder: Path) -> None:
    """One of the files that a WaNet set of backdoor-toolbox has beside its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(torch.zeros(1, 8, 8, 2), folder / "noise_grid")


def files(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for position, image in enumerate(pixels(count)):
        Image.fromarray(image).save(folder / f"{position}.png")


def record(folder: Path) -> None:
    """A BackdoorBench workspace with one record, as the tests of the adapter make it, and files of settings."""
    from fake_records import make_workspace

    make_workspace(folder)
    (folder / "index.txt").write_text("0\n1\n2\n")
    place = folder / "config" / "defense" / "d3"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text("epochs: 2\nbatch_size: 16\n")


def batches(folder: Path) -> None:
    """The batches of CIFAR-10 with the names of the classes, as torchvision unpacks them."""
    from fake_records import make_workspace

    make_workspace(folder)
    names = {"label_names": [f"class {label}" for label in range(10)]}
    (folder / "data" / "cifar10" / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


def signs(folder: Path) -> None:
    """The tables of GTSRB, with one image in each class."""
    for label in range(43):
        place = folder / "Train" / f"{label:05d}"
        place.mkdir(parents=True)
        Image.fromarray(pixels(1, 32)[0]).save(place / "0.png")
        (place / f"GT-{label:05d}.csv").write_text(f"Filename;W;H;a;b;c;d;ClassId\n0.png;32;32;0;0;1;1;{label}\n")
    (folder / "Test").mkdir()
    Image.fromarray(pixels(1, 32)[0]).save(folder / "Test" / "0.png")
    (folder / "Test" / "GT-final_test.csv").write_text("Filename;W;H;a;b;c;d;ClassId\n0.png;32;32;0;0;1;1;5\n")


def denoiser(folder: Path) -> None:
    """A denoiser of our own, in a diffusers folder, and one of guided-diffusion in one file."""
    from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser
    from elixir_plugin.diffusion.denoisers.guided_unet import GuidedPlan, GuidedUNet, Heads
    from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture, build_unet
    from elixir_plugin.diffusion.schedule import Schedule

    plan = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})
    card = {"origin": "a test"}
    UNetDenoiser(build_unet(plan, 8, 3), Schedule("cosine", 1000), variance="fixed_large", card=card).save(
        folder / "own"
    )
    guided = GuidedUNet(GuidedPlan(3, 3, 32, 32, (32,), 1, (False,), False, False, None), Heads(1, 1, None, False))
    torch.save(guided.state_dict(), folder / "guided.pt")
    flags = {"image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1], "num_heads": 1}
    flags |= {"attention_resolutions": "1", "diffusion_steps": 100, "noise_schedule": "linear", "learn_sigma": False}
    flags |= {"use_new_attention_order": False, "rescale_timesteps": False, "num_heads_upsample": -1}
    (folder / "guided.json").write_text(json.dumps(flags))


def sharded(folder: Path) -> None:
    """The same denoiser, its weights in two files with an index."""
    denoiser(folder)
    place = folder / "own" / "unet"
    whole = place / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    places = {}
    for number, part in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        name = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({each: weights[each] for each in part}, place / name)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": places}
    (place / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def pipeline(folder: Path) -> None:
    """The index of a pipeline for images, and the names of its weights; enough for what looks at it before it loads."""
    index = {
        "_class_name": "StableDiffusionImg2ImgPipeline",
        "_diffusers_version": "0.30.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (folder / "model_index.json").write_text(json.dumps(index))


def run(folder: Path) -> None:
    """The folder of a finished run, with its input beside it."""
    from elixir_plugin.runs.run import run_defense
    from elixir_plugin.runs.spec import RunSpec

    image_folder(folder / "input")
    values = {
        "defense": "d3",
        "source": {"adapter": "image_folder", "path": str(folder / "input" / "set"), "options": {}},
        "settings": {"epochs": 1, "batch_size": 4},
        "any_model": True,
        "out": str(folder / "run"),
        "write_to": str(folder / "native"),
        "device": "cpu",
    }
    values["source"]["options"] = {"model": str(folder / "input" / "model")}
    run_defense(RunSpec.build(values), quiet=True)


def checkout(folder: Path) -> None:
    """A checkout of BackdoorBench, as far as an install looks, with one defense placed in it."""
    from elixir_plugin.adapters.backdoorbench import BackdoorBench

    from elixir_plugin.runs.checkout import place

    for name in ("attack", "config/defense", "defense", "utils"):
        (folder / name).mkdir(parents=True)
    for name in ("defense/base.py", "utils/save_load_attack.py"):
        (folder / name).write_text("")
    place(BackdoorBench().placement(folder, ["d3"]), folder)


def published(folder: Path) -> None:
    """A table of numbers that somebody has published."""
    from elixir_plugin.runs.published import PUBLISHED

    folder.mkdir(parents=True)
    (folder / "table.json").write_bytes((PUBLISHED / "eclipse.json").read_bytes())


def cards(folder: Path) -> None:
    from elixir_plugin.runs.cards import BUILT_IN

    folder.mkdir(parents=True)
    file = sorted(BUILT_IN.glob("*.json"))[0]
    (folder / "card.json").write_bytes(file.read_bytes())


def results(folder: Path) -> None:
    """A card, and a table of detections, where another one is to be written."""
    from calls import append, save

    folder.mkdir(parents=True)
    save(folder)
    append(folder)


def chunks(folder: Path) -> None:
    """What a killed run keeps of its work: a store of chunks, and the state of a training."""
    from elixir_plugin.core.context import Context
    from elixir_plugin.diffusion.store.chunks import ChunkStore
    from elixir_plugin.training.checkpoint import write_state

    store = ChunkStore(folder / "store", length=6, shape=(2,), dtype="float32", identity={"of": "test"}, chunk=2)
    wanted = np.arange(12, dtype=np.float32).reshape(6, 2)
    store.fill(lambda part: wanted[part], Context(quiet=True), description="test")
    write_state(folder / "state.safetensors", {"model/a": torch.zeros(3)}, {"facts": '{"done": 1}'})
