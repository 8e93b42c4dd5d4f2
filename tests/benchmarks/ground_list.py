"""What the proving ground holds: attacks, defenses, free controls, seeds, and about what a cell costs.

Rows go by their order: the first attacks are the most telling, and their cheap cells are done before the next ones.
Defaults of defenses are taken as they are; nothing here was chosen by looking at a seed that is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from elixir_plugin.zoo.entries import ZOO

SEED, OTHER_SEED = 101, 102  # of the sets that are judged; whoever tunes something uses others
RESERVED = 2500  # images, 5 % of the training set; they are taken out of it before poisoning
WAVE = 6  # attacks whose cheap cells are done together
SUSPECT = "undefended"
TRAINING = 600.0  # seconds that a training of the recipe `fast` takes on one core at full size, until a card says more


@dataclass(frozen=True)
class Attack:
    """One poison with its settings.

    :param learns: what the poison has to learn first, in trainings of a suspect model.
    :param published: test ACC after training on it, as published, see :data:`PUBLISHED`.
    """

    name: str
    poison: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    learns: float = 0.0
    published: float | None = None
    seeds: tuple[int, ...] = (SEED,)


@dataclass(frozen=True)
class Column:
    """One defense or control with its settings.

    :param trainings: about what a cell costs, in trainings of a suspect model, until a card says more.
    :param preset, settings: of the defense.
    :param named: what tells it from the defense with its defaults, in words.
    :param control: what costs nothing to think of, and has to be beaten.
    :param estimates: whether the defense can say what a run costs; then it is asked, once.
    """

    name: str
    trainings: float
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    named: str | None = None
    control: bool = False
    estimates: bool = False

    @property
    def label(self) -> str:
        """Its name in tables, as `compare` has it."""
        told = self.named or self.preset
        return self.name if told is None else f"{self.name} ({told})"


PUBLISHED = (  # of the numbers below
    "Liu et al., Image Shortcut Squeezing, ICML 2023 (README of liuzrcc/ImageShortcutSqueezing): CIFAR-10, ResNet-18, "
    "all 50,000 images, no defense"
)
PUBLISHED_CLEAN = 0.9468


def _of_zoo(name: str, **more: Any) -> Attack:
    """Return the attack of that name in the zoo."""
    return Attack(name, ZOO[name].poison, ZOO[name].settings, **more)


ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {
        attack.name: attack
        for attack in (
            Attack("clean", "badnets", {"preset": "backdoorbench", "rate": 0}, seeds=(SEED, OTHER_SEED)),
            _of_zoo("badnets_white_10pc"),
            _of_zoo("blended_picture_10pc"),
            _of_zoo("wanet_10pc"),
            _of_zoo("adaptive_blend_0p3pc"),
            _of_zoo("lsp", published=0.1907),
            # the second wave
            _of_zoo("badnets_colour_10pc"),
            _of_zoo("tact_2pc"),
            _of_zoo("trojan_10pc"),
            _of_zoo("sig_5pc"),
            _of_zoo("ar", published=0.1328),
            Attack("em", "em", learns=4, published=0.2105),
            # the third
            Attack("badnets_white_1pc", "badnets", {"preset": "backdoorbench", "rate": 0.01}),
            _of_zoo("badnets_checkerboard_10pc"),
            _of_zoo("badnets_all_to_all_10pc"),
            _of_zoo("adaptive_patch_0p3pc"),
            Attack("tap", "tap", learns=3, published=0.0817),
            _of_zoo("ops", published=0.3655),
            # the fourth
            _of_zoo("blended_noise_10pc"),
            Attack("label_consistent", "label_consistent", learns=3),
            Attack("input_aware", "input_aware", learns=3),
            _of_zoo("cuda"),
            _of_zoo("urp"),
            _of_zoo("badnets_diagonal_0p3pc"),
            # what else Confusion Training reports on
            _of_zoo("trojan_0p3pc"),
            _of_zoo("tact_0p3pc"),
            _of_zoo("wanet_5pc"),
            _of_zoo("sig_2pc"),
        )
    }
)
COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        column.label: column
        for column in (
            Column("d3", 0.5),
            Column("confusion_training", 25),
            Column("confusion_training", 3, preset="small"),
            Column("dataelixir", 400, estimates=True),
            Column("dataelixir", 40, preset="small", estimates=True),
            Column("eclipse", 600),
            Column("eclipse", 4, preset="cpu"),
            Column("image_variations", 400, estimates=True),
            Column("image_variations", 20, preset="cpu", estimates=True),
            Column("do_nothing", 1, control=True),
            Column("random_head", 0.2, control=True),
            Column("finetune", 0.2, control=True),
            Column("train_on_clean_only", 1, control=True),
            Column("jpeg", 1, control=True),
            Column("grayscale", 1, control=True),
            Column("gaussian_noise", 1, control=True),
            Column("random_crop", 1, control=True),
            Column("drop_class", 1, control=True),
            Column("random_drop", 1, control=True),
        )
    }
)
