"""How often ``flip: auto`` mirrors images, on data where the right answer is known: the table of docs/mirroring.md.

    python tests/benchmarks/mirror_choice.py --draws 40 --workspace ../shared/toolkits/backdoorbench

Each draw is another reserved clean set, and another suspect set where there is one. Thresholds were set on draws of
CIFAR-10's training images and on seeds below 100; what is judged here are its test images and seeds from 100 on. Models
are asked alone; without a model, :func:`decide` is called as a run calls it.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar import cifar_sets

from elixir_plugin import Case, Classifier, Context, ImageSet, Recipe, get_adapter
from elixir_plugin.core.augmentation import mirrored
from elixir_plugin.core.mirror_evidence import judge
from elixir_plugin.core.mirroring import decide
from elixir_plugin.plugins import plugins
from elixir_plugin.testbed.digits import digits
from elixir_plugin.training.fit import learn, untrained

SEED = 100
Draw = Callable[[np.random.Generator], ImageSet]


def as_set(pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> ImageSet:
    return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), labels, classes)


def arrows(count: int, rng: np.random.Generator, size: int = 16, classes: int = 4) -> ImageSet:
    """Return arrows to the left, right, top, bottom, anywhere in the image, in any light colour."""
    shape = np.zeros((9, 9))
    shape[4] = 1
    for step in range(4):
        shape[4 - step, 8 - step] = shape[4 + step, 8 - step] = 1
    forms = [shape[:, ::-1], shape, shape.T[::-1], shape.T]
    labels = np.arange(count) % classes
    pixels = rng.uniform(20, 60, (count, 1, 1, 3)) + rng.normal(0, 20, (count, size, size, 3))
    for row, label in enumerate(labels):
        top, left = rng.integers(0, size - 8, 2)
        pixels[row, top : top + 9, left : left + 9] += forms[label][..., None] * rng.uniform(80, 200, 3)
    return as_set(pixels, labels, classes)


def templates(count: int, rng: np.random.Generator, twins: bool, classes: int = 20, size: int = 16) -> ImageSet:
    """Return noisy, shifted patterns that are their own mirror image; with *twins*, two are each other's."""
    fixed = np.random.default_rng(SEED)
    forms = fixed.normal(0, 40, (classes, size // 2, size // 2)).repeat(2, 1).repeat(2, 2)
    twin = forms[0] / np.sqrt(2)
    forms = (forms + forms[:, :, ::-1]) / 2
    if twins:
        forms[0], forms[1] = twin, twin[:, ::-1]
    labels = np.arange(count) % classes
    moved = [np.roll(forms[label], rng.integers(-1, 2, 2), (0, 1)) for label in labels]
    return as_set(128 + np.stack(moved)[..., None] + rng.normal(0, 25, (count, size, size, 3)), labels, classes)


def trained(images: ImageSet, *, flip: bool, epochs: int) -> Classifier:
    model = untrained(images, "fast_resnet", SEED, torch.device("cpu"))
    recipe = Recipe(epochs=epochs, batch_size=64, lr=0.05, augmentation={"crop": 1, "flip": flip})
    learn(model, images, recipe, Context(seed=SEED), name="mirror_choice", stage="train")
    return model


def by_model(model: Classifier, pool: ImageSet, count: int, draws: int) -> Counter[str]:
    """Return how often the answers of *model* on *count* images of *pool* say what."""
    plain, sides = (model.predict(images).astype(np.float64) for images in (pool, mirrored(pool)))
    found: Counter[str] = Counter()
    for draw in range(draws):
        rows = np.random.default_rng([SEED, draw]).permutation(len(pool))[:count]
        found[judge(plain[rows], sides[rows], pool.labels[rows]).verdict] += 1
    return found


def by_probe(draw_pool: Draw, count: int, suspects: int, draws: int, poison: str | None = None) -> Counter[str]:
    """Return how often a probe says what: from *count* clean images, and *suspects* poisoned ones."""
    found: Counter[str] = Counter()
    for draw in range(draws):
        pool = draw_pool(np.random.default_rng([SEED, draw]))
        rows = np.random.default_rng([SEED, draw]).permutation(len(pool))
        clean, train = pool.subset(rows[:count]), None
        if suspects:
            train = pool.subset(rows[count : count + suspects])
            train = train if poison is None else plugins().get("poison", poison)(rate=0.1).poison(train, draw)[0]
        context = Context(seed=draw)
        found[decide(Case(clean=clean, train=train), context).evidence["a probe"].verdict] += 1
    return found


def accuracy(model: Classifier, pool: ImageSet) -> str:
    return f" (ACC {(model.predict(pool).argmax(1) == pool.labels).mean():.0%})"


def fixed(pool: ImageSet) -> Draw:
    return lambda _: pool


Row = tuple[str, str, str, Counter[str]]  # data, who is asked, what is at hand, the verdicts


def photos(workspace: Path, draws: int) -> Iterator[Row]:
    (pool,) = cifar_sets([10_000], SEED, part="test")
    for count, share in ((250, "0.5 %"), (500, "1 %"), (1000, "2 %"), (2500, "5 %")):
        at_hand = f"{count:,} clean ({share} of CIFAR-10)"
        found = by_probe(fixed(pool), count, 5000, draws, "badnets")
        yield "CIFAR-10", "probe", f"{at_hand}, 5,000 suspects (badnets, 10 %)", found
        yield "CIFAR-10", "probe", at_hand, by_probe(fixed(pool), count, 0, draws)


def models(workspace: Path, draws: int) -> Iterator[Row]:
    (pool,) = cifar_sets([3_000], SEED, part="test")
    (train,) = cifar_sets([6_000], SEED)
    asked = {"trained without mirroring": trained(train, flip=False, epochs=10)}
    for record in ("badnet_0_1", "blended_0_1"):
        model = get_adapter("backdoorbench")().read(workspace / "record" / record, 0).model
        assert model is not None
        asked[f"of record {record}"] = model
    for name, model in asked.items():
        for count in (250, 500, 2500):
            yield (
                "CIFAR-10",
                f"model {name}{accuracy(model, pool)}",
                f"{count:,} clean",
                by_model(model, pool, count, draws),
            )


def figures(workspace: Path, draws: int) -> Iterator[Row]:
    from sklearn.datasets import load_digits

    split = digits(size=16, seed=SEED, clean=0, test=800)
    plain = load_digits()
    for name, pool in (
        ("testbed digits", split.test),
        ("scikit-learn's digits, 8 px", as_set(plain.images[..., None] * 15.9, plain.target, 10)),
    ):
        for count in (20, 50, 150, 400):
            yield name, "probe", f"{count} clean", by_probe(fixed(pool), count, 0, draws)
        found = by_probe(fixed(pool), 150, 600, draws, "badnets")
        yield name, "probe", "150 clean, 600 suspects (badnets, 10 %)", found
    for flip in (False, True):
        model = trained(split.train, flip=flip, epochs=15)
        for count in (50, 150):
            who = f"model trained with{'' if flip else 'out'} mirroring{accuracy(model, split.test)}"
            yield "testbed digits", who, f"{count} clean", by_model(model, split.test, count, draws)


def drawings(workspace: Path, draws: int) -> Iterator[Row]:
    drawn: dict[str, tuple[Draw, tuple[int, ...]]] = {
        "arrows left, right": (lambda rng: arrows(1500, rng, classes=2), (20, 100)),
        "arrows in 4 directions": (lambda rng: arrows(1500, rng), (20, 50, 200)),
        "the same, small in 32 px": (lambda rng: arrows(1500, rng, size=32), (50, 200)),
        "20 classes, one mirror pair": (lambda rng: templates(1500, rng, True), (100, 200, 400)),
        "20 classes, all symmetric": (lambda rng: templates(1500, rng, False), (100, 200, 400)),
    }
    for name, (draw_pool, counts) in drawn.items():
        for count in counts:
            yield name, "probe", f"{count} clean", by_probe(draw_pool, count, 0, draws)
        yield name, "probe", "100 clean, 1,000 suspects", by_probe(draw_pool, 100, 1000, draws)
        rng = np.random.default_rng(SEED)
        learned, pool = (draw_pool(rng) for _ in range(2))
        for flip in (False, True):
            model = trained(learned, flip=flip, epochs=6)
            who = f"model trained with{'' if flip else 'out'} mirroring{accuracy(model, pool)}"
            yield name, who, "200 clean", by_model(model, pool, 200, draws)


PARTS = {"photos": photos, "models": models, "figures": figures, "drawings": drawings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder of BackdoorBench that holds record/")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    print("| data | asked | at hand | mirrors | harm shown | nothing shown |\n|---|---|---|---|---|---|", flush=True)
    rows = itertools.chain.from_iterable(PARTS[part](options.workspace, options.draws) for part in options.parts)
    for data, who, at_hand, found in rows:
        shares = (found[name] / found.total() for name in ("harmless", "harmful", "unclear"))
        print(f"| {data} | {who} | {at_hand} | " + " | ".join(f"{each:.0%}" for each in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
