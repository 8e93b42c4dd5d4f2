"""What is in the zoo: attacks with the settings of their authors, each under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import SettingsError, nearest
from ..plugins import plugins
from ..testbed.base import Poison

BADNETS = "Gu et al., BadNets, arXiv 1708.06733"
BLENDED = "Chen et al., Targeted Backdoor Attacks, arXiv 1712.05526"
SIG = "Barni et al., ICIP 2019, arXiv 1902.11237"
WANET = "Nguyen and Tran, WaNet, ICLR 2021, arXiv 2102.10369"
TACT = "Tang et al., Demon in the Variant, USENIX Security 2021, arXiv 1908.00686"
TROJAN = "after Liu et al., Trojaning Attack, NDSS 2018"
ADAPTIVE = "Qi et al., Latent Separability, ICLR 2023"
LSP = "Yu et al., Availability Attacks Create Shortcuts, KDD 2022, arXiv 2111.00898"
URP = "class-wise noise of Huang et al., ICLR 2021, arXiv 2101.04898"
AR = "Sandoval-Segura et al., NeurIPS 2022, arXiv 2206.03693"
OPS = "Wu et al., One-Pixel Shortcut, ICLR 2023, arXiv 2205.12141"
CUDA = "Sadasivan et al., CVPR 2023, arXiv 2303.04278"


@dataclass(frozen=True)
class ZooEntry:
    """One attack of the zoo.

    :param poison: its name in the testbed.
    :param settings: of that poison, also a preset; the others have their defaults.
    :param paper: whose attack it is.
    :param about: what it is, and who uses these settings.
    :param edge: least edge length of the images in pixels, where it makes no sense on smaller ones.
    :param digits: options of the testbed in place of its own defaults where digits are poisoned.
    """

    name: str
    poison: str
    settings: Mapping[str, Any]
    paper: str
    about: str
    edge: int = 1
    digits: Mapping[str, Any] = field(default_factory=dict)

    def attack(self) -> Poison:
        """Return the poison with all of its settings."""
        poison: Poison = plugins().get("poison", self.poison)(dict(self.settings))
        return poison

    @property
    def needs(self) -> str:
        """What the base must have."""
        return f"images of at least {self.edge} px" if self.edge > 1 else "any images"


LARGE = {"size": 224, "architecture": "fast_resnet", "recipe": {"epochs": 3, "batch_size": 32}}
_ENTRIES = (
    ZooEntry("badnets_white_10pc", "badnets", {"preset": "backdoorbench"}, BADNETS, "white 3×3 corner (BackdoorBench)"),
    ZooEntry("badnets_colour_10pc", "badnets", {"preset": "dataelixir"}, BADNETS, "4×4 colour blocks (DataElixir)"),
    ZooEntry(
        "badnets_diagonal_0p3pc",
        "badnets",
        {"preset": "confusion_training"},
        BADNETS,
        "3×3 diagonal (Confusion Training)",
    ),
    ZooEntry(
        "badnets_checkerboard9_10pc",
        "badnets",
        {"preset": "image_variations"},
        BADNETS,
        "9×9 checkerboard (image variations)",
        edge=224,
        digits=LARGE,
    ),
    ZooEntry("badnets_checkerboard_10pc", "badnets", {}, BADNETS, "3×3 checkerboard, one pixel from the border"),
    ZooEntry(
        "badnets_all_to_all_10pc",
        "badnets",
        {"preset": "backdoorbench", "labels": "all_to_all"},
        BADNETS,
        "white 3×3 corner, each class to the next",
    ),
    ZooEntry("blended_noise_10pc", "blended", {}, BLENDED, "a picture of noise, weight 0.2"),
    ZooEntry("blended_picture_10pc", "blended", {"picture": "shapes"}, BLENDED, "a drawing, weight 0.2"),
    ZooEntry("blended_all_to_all_10pc", "blended", {"labels": "all_to_all"}, BLENDED, "noise, each class to the next"),
    ZooEntry("sig_2pc", "sig", {"rate": 0.02}, SIG, "sinusoid, clean labels (Confusion Training)", edge=13),
    ZooEntry("sig_5pc", "sig", {"rate": 0.05}, SIG, "sinusoid, clean labels: half of the class in CIFAR-10", edge=13),
    ZooEntry("wanet_10pc", "wanet", {}, WANET, "warp, with 20 % covers"),
    ZooEntry(
        "wanet_5pc", "wanet", {"rate": 0.05, "cover_rate": 0.1}, WANET, "warp, with 10 % covers (Confusion Training)"
    ),
    ZooEntry("tact_2pc", "tact", {}, TACT, "patch for one source class, with 2 % covers"),
    ZooEntry(
        "tact_0p3pc",
        "tact",
        {"rate": 0.003, "cover_rate": 0.003},
        TACT,
        "patch for one source class, with 0.3 % covers (Confusion Training)",
    ),
    ZooEntry("trojan_10pc", "trojan", {}, TROJAN, "5×5 many-coloured patch, not optimised"),
    ZooEntry("trojan_0p3pc", "trojan", {"rate": 0.003}, TROJAN, "5×5 many-coloured patch, not optimised"),
    ZooEntry("adaptive_blend_0p3pc", "adaptive_blend", {}, ADAPTIVE, "half of a picture's pieces, with 0.3 % covers"),
    ZooEntry(
        "adaptive_patch_0p3pc", "adaptive_patch", {}, ADAPTIVE, "one of four faint patches, with 0.6 % covers", edge=12
    ),
    ZooEntry("lsp", "lsp", {}, LSP, "linearly separable patches on every image"),
    ZooEntry("urp", "urp", {}, URP, "one noise image per class, 8/255"),
    ZooEntry("ar", "ar", {}, AR, "autoregressive noise on every image, ‖δ‖₂ = 1 at 32 px"),
    ZooEntry("ops", "ops", {}, OPS, "one pixel per class, on every image"),
    ZooEntry("cuda", "cuda", {}, CUDA, "one filter per class, on every image"),
)
ZOO: Mapping[str, ZooEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> entry. To add one, write one line above and run ``elixir-plugin zoo hashes``; see ``docs/zoo.md``."""


def find_entry(name: str) -> ZooEntry:
    """Return the entry called *name*.

    :raises SettingsError: for an unknown name, with the nearest known one.

    >>> find_entry("badnets_white_10pc").attack().settings.pattern
    'white'
    """
    if name not in ZOO:
        raise SettingsError(
            "no such set in the zoo", where="NAME", found=name, allowed=", ".join(sorted(ZOO)), hint=nearest(name, ZOO)
        )
    return ZOO[name]
