"""The trigger of each attack on test images: what it is made from, and which images it is put on.

The toolkits store no triggered test set: their scripts put the trigger on the test images while they measure ASR. Here
it is made from what they make it from: pictures in the checkout's folder ``triggers``, the name of the set's folder,
files beside ``labels``, and constants.

=============================== ================================================================ ===================
attack                          trigger in test images                                           described in
=============================== ================================================================ ===================
badnet, badnet_all_to_all       a patch; with all-to-all labels the wanted label is the next one arXiv 1708.06733
trojan                          a patch                                                          arXiv 1708.06733
clean_label, basic              a patch; of ``basic``, as opaque as the folder's name says       arXiv 1912.02771
TaCT                            a patch, in images of the source class alone                     arXiv 1908.00686
blend, adaptive_blend           a picture over the whole image, as opaque as the name says       arXiv 1712.05526
adaptive_patch, adaptive_k_way  two opaque patches; four pixels                                  arXiv 2205.13613
SIG                             a horizontal sinusoid: amplitude 30 / 255, 6 periods, clipped    arXiv 1902.11237
WaNet                           a warp: ``identity_grid`` + 0.5 / H · ``noise_grid``, clipped    arXiv 2102.10369
=============================== ================================================================ ===================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from ...core.case import TriggeredSet, Truth
from ...core.images import ImageSet, Index
from ...core.pixels import to_bytes, to_floats
from ...errors import InputError, preview_list
from ...io.images import image_header
from ...io.opening import is_there
from .stamps import Pixels, is_shown, is_waved, overlay, read_grid, read_layer, shows_one, single_pixels, sinusoid, warp

PATCHES: dict[str, str | None] = {  # the picture where no other is named; None: the folder's name says it
    "badnet": "badnet_patch_32.png",
    "badnet_all_to_all": "badnet_patch_32.png",
    "trojan": "trojan_square_32.png",
    "TaCT": "trojan_square_32.png",
    "clean_label": None,
    "basic": None,
}
BLENDS = ("blend", "adaptive_blend")
FAINT = (*BLENDS, "basic")  # as opaque as the folder's name says
ADAPTIVE_PATCHES = {  # of test images, all of them opaque; training images show others
    "cifar10": ("phoenix_corner2_32.png", "badnet_patch4_32.png"),
    "gtsrb": ("firefox_corner_32.png", "trojan_square_32.png"),
}
K_WAY = {(16, 11): (92, 0, 24), (27, 5): (88, 112, 110), (7, 30): (0, 32, 46), (22, 22): (11, 49, 95)}  # row, column
AMPLITUDE, PERIODS = 30 / 255, 6  # of the sinusoid
STRENGTH = 0.5  # of the warp, in half pixels
GRIDS = ("identity_grid", "noise_grid")  # files of its warp, beside labels
SOURCE_CLASS = 1  # of TaCT
WITHOUT_PICTURE = ("SIG", "WaNet", "adaptive_k_way")
ONE_PICTURE = (*PATCHES, *BLENDS)
KNOWN = (*ONE_PICTURE, "adaptive_patch", *WITHOUT_PICTURE)
OUT_OF_REACH = {
    "dynamic": "a generator network makes its trigger",
    "ISSBA": "an encoder network makes its trigger",
    "refool": "its reflections are drawn anew for every batch",
    "SleeperAgent": "the toolkit draws its patch anew each time it measures",
    "none": "the set holds no poison",
}
CARRIED = 256  # poison samples that are looked at for the trigger


@dataclass(frozen=True)
class Place:
    """Where a set lies, and what its options say about the trigger.

    :param folder: of the set.
    :param dataset, directory: the toolkits' name of the data set, and that of the set's folder.
    :param trigger: option ``trigger``: a picture, a folder of pictures, or None: the checkout's ``triggers``.
    :param alpha, source_class: options.
    """

    folder: Path
    dataset: str
    directory: str
    trigger: Path | None = None
    alpha: float | None = None
    source_class: int | None = None


class _OutOfReachError(Exception):
    """Why no trigger can be made, where none was asked for."""


def attack_of(directory: str) -> str | None:
    """Return the toolkits' name of the attack that a set's folder is named after.

    >>> attack_of("badnet_all_to_all_0.050_poison_seed=0"), attack_of("mine")
    ('badnet_all_to_all', None)
    """
    named = (each for each in (*KNOWN, *OUT_OF_REACH) if f"{directory}_".startswith(f"{each}_"))
    return max(named, key=len, default=None)


def triggered_set(
    place: Place, train: ImageSet, test: ImageSet | None, truth: Truth | None, notes: list[str]
) -> TriggeredSet | None:
    """Return the test images with the trigger on them, as the toolkit measures ASR, or None; a note says which and why.

    Images of the target class are left out (of TaCT, all but those of the source class); with all-to-all labels none
    are. They are rounded to 8 bits if those of *train* are.

    :raises InputError: when an option asks for a trigger that cannot be made, and for files that cannot be read.
    """
    try:
        attack = _known_attack(place)
        if test is None or truth is None or not truth.poison.any():
            lacking = "no test set" if test is None else "poison samples are not known, nor the label they are to get"
            raise _OutOfReachError(lacking)
        rows, wanted = _carriers(attack, place, train, test, truth)
        poison = to_floats(train.read(np.flatnonzero(truth.poison)[:CARRIED]))
        apply, made_from = _trigger(attack, place, poison, test.image_shape, notes)
    except _OutOfReachError as reason:
        if place.trigger is not None:
            _refuse(place, str(reason))
        notes.append(f"no triggered test set: ASR is not measured: {reason}")
        return None
    samples = test.subset(rows)
    images = np.empty((len(samples), *samples.image_shape), train.images.dtype)
    for part, pixels in samples.chunks():
        changed = np.clip(apply(to_floats(pixels)), 0, 1)
        images[part] = to_bytes(changed) if images.dtype == np.uint8 else changed
    notes.append(f"triggered test set: {attack} on {len(rows)} of {len(test)} test images, made from {made_from}")
    return TriggeredSet(samples.replace(images=images, labels=wanted), samples.labels)


def _refuse(place: Place, reason: str) -> NoReturn:
    raise InputError(
        "no triggered test set can be made",
        where="option trigger",
        found=f"set {place.directory}: {reason}",
        allowed=f"one picture for {', '.join(ONE_PICTURE)}; the toolkit's folder triggers for these and adaptive_patch",
        hint="without a trigger ASR is not measured: {option:trigger=none}",
    )


def _known_attack(place: Place) -> str:
    attack = attack_of(place.directory)
    if attack is None:
        raise _OutOfReachError("the folder is not named after an attack whose trigger is known")
    if attack in OUT_OF_REACH:
        raise _OutOfReachError(f"{attack}: {OUT_OF_REACH[attack]}")
    if place.trigger is not None and attack in WITHOUT_PICTURE:
        raise _OutOfReachError(f"the trigger of {attack} is no picture, and is made without this option")
    return attack


def _carriers(attack: str, place: Place, train: ImageSet, test: ImageSet, truth: Truth) -> tuple[Index, Index]:
    """Return the positions of the test images that get the trigger, and the labels that the attacker wants."""
    if attack == "badnet_all_to_all":
        return np.arange(len(test)), (test.labels + 1) % test.num_classes
    targets = np.unique(train.labels[truth.poison]).tolist()
    if len(targets) != 1:
        raise _OutOfReachError(f"poison samples have labels {preview_list(targets, 5)}, not one")
    source = SOURCE_CLASS if place.source_class is None else place.source_class
    chosen = test.labels == source if attack == "TaCT" else np.ones(len(test), bool)
    rows = np.flatnonzero(chosen & (test.labels != targets[0]))
    if not len(rows):
        raise _OutOfReachError(f"no test image of class {source} is left" if attack == "TaCT" else "none is left")
    return rows, np.full(len(rows), targets[0], np.int64)


def _trigger(
    attack: str, place: Place, poison: Pixels, shape: tuple[int, int, int], notes: list[str]
) -> tuple[Callable[[Pixels], Pixels], str]:
    """Return a function that puts the trigger on images ``[n, H, W, 3]``, and what it was made from.

    :param poison: some poison samples; what they do not show is not the trigger, unless an option names it.
    """
    if attack == "SIG":
        if not is_waved(poison, AMPLITUDE, PERIODS):
            raise _OutOfReachError("poison samples do not show the sinusoid of the toolkit's script")
        return sinusoid(AMPLITUDE, PERIODS), f"its formula (amplitude {AMPLITUDE:.3f}, {PERIODS} periods)"
    if attack == "adaptive_k_way":
        if min(shape[:2]) <= max(map(max, K_WAY)):
            raise _OutOfReachError(f"its pixels lie outside images of {shape[0]} × {shape[1]}")
        if not shows_one(poison, K_WAY):
            raise _OutOfReachError("poison samples do not show the pixels of the toolkit's script")
        return single_pixels(K_WAY), "the four pixels of the toolkit's script"
    if attack == "WaNet":
        files = [place.folder / name for name in GRIDS]
        if missing := [file.name for file in files if not is_there(file)]:
            raise _OutOfReachError(f"its warp is not known: no {' and no '.join(missing)} in the folder of the set")
        return warp(*(read_grid(file, shape) for file in files), strength=STRENGTH), " and ".join(GRIDS)
    files = _pictures(attack, place)
    if place.trigger is None:
        _leave_other_sizes(files, shape)
    layers = [read_layer(file, shape, whole=attack in BLENDS) for file in files]
    if attack in PATCHES and attack not in FAINT and not is_shown(layers[0], poison):
        if place.trigger is None:
            raise _OutOfReachError(f"poison samples do not show {files[0].name} (option trigger)")
        notes.append(f"poison samples do not show {files[0]}: ASR is that of another trigger than theirs")
    opacity = _opacity(place) if attack in FAINT else 1.0
    said = f" at opacity {opacity:.4g}" if opacity < 1 else ""
    return overlay(layers, opacity), " and ".join(_short(file, place) for file in files) + said


def _leave_other_sizes(files: Sequence[Path], shape: tuple[int, int, int]) -> None:
    for file in files:
        if (size := image_header(file).size(upright=False)) != shape[:2]:
            raise _OutOfReachError(f"{file.name} is {size[0]} × {size[1]}, the images {shape[0]} × {shape[1]}")


def _short(file: Path, place: Place) -> str:
    return str(file) if place.trigger is not None else f"triggers/{file.name}"


def _pictures(attack: str, place: Place) -> list[Path]:
    """Return the pictures of an attack: what option ``trigger`` names, else those of the checkout."""
    given = place.trigger
    if given is not None and not given.is_dir() and attack != "adaptive_patch":
        return [given]
    folder = given if given is not None else _checkout(place.folder) / "triggers"
    if attack == "adaptive_patch":
        names: Sequence[str | None] = ADAPTIVE_PATCHES.get(place.dataset, (None,))
    else:
        said = re.search(r"_trigger=(.+?)(?:_poison_seed=\d+)?(?:_arch=\w+)?$", place.directory)
        names = [said[1] if said else PATCHES.get(attack)]
    found = []
    for name in names:
        if name is None:
            raise _OutOfReachError(f"which picture {attack} shows is not known for {place.dataset} (option trigger)")
        if "/" in name or "\\" in name or not is_there(folder / name):
            where = "no triggers of a checkout hold it" if given is None else f"it is not in {given}"
            raise _OutOfReachError(f"{attack} shows {name}, and {where} (option trigger)")
        found.append(folder / name)
    return found


def _checkout(folder: Path) -> Path:
    """Return the checkout that a set lies in: the parent of ``poisoned_train_set``, else the folder itself."""
    tree = next((each for each in folder.parents if each.name == "poisoned_train_set"), None)
    return folder if tree is None else tree.parent


def _opacity(place: Place) -> float:
    if place.alpha is not None:
        return place.alpha
    found = re.search(r"_alpha=(\d*\.\d+)", place.directory)
    if found is None:
        raise _OutOfReachError("the name of the folder does not say how opaque the trigger is (option alpha)")
    return float(found[1])
