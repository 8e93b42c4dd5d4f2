"""Presets of Confusion Training: the reference schedules, and schedules for small sets on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A small set is memorised: after 20 epochs on 2,000 images, 70 % of the clean suspects were still fitted long after
# confusion had destroyed the prediction of fresh images. So each round trains a new base model for few epochs, from
# round 1 on also on the reserved clean set under shifted labels; distilled sets stay large enough to learn a trigger
# from; and the last three models decide together, as each has memorised other samples. Confusion stops when held-out
# samples are predicted at chance level: more of it destroys the trigger too.
SMALL: dict[str, Any] = {
    "schedule": "as_set",
    "architecture": "fast_resnet",
    "suspect_size": 2_000,
    "reserved_size": 400,
    "reference": "labels",
    "ratios": (1 / 2, 1 / 5, 1 / 10, 1 / 20),
    "pretrain_epochs": (10, 10, 15, 20, 20),
    "warm_start": False,
    "shifted_from": 1,
    "confusion_steps": (500, 400, 400, 300, 300),
    "confusion_lr": (0.001,),
    "lam": (20,),
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "cifar10": {"schedule": "as_set"},
    "gtsrb": {
        "schedule": "as_set",
        "suspect_size": 26_640,
        "confusion_lr": (0.001,),
        "lam": (20,),
        "factor": (2, 2, 4, 8, 8, 2),
    },
    "imagenet": {
        "schedule": "as_set",
        "architecture": "narrow_resnet18",
        "input_size": 64,
        "suspect_size": 100_000,
        "reserved_size": 5_000,
        "ratios": (1 / 5, 1 / 20, 1 / 40, 1 / 80),
        "pretrain_epochs": (20,),
        "pretrain_lr": (0.5,),
        "pretrain_batch": (1024,),
        "warm_start": False,
        "shifted_from": 2,
        "confusion_steps": (10_000, 5_000, 5_000, 5_000, 5_000),
        "confusion_batch": 128,
        "confusion_lr": (0.01,),
        "confusion_momentum": (0.5,),
        "lam": (20,),
        "factor": (1, 2, 4, 4, 4),
        "weight_decay": 5e-5,
        "class_weights": False,
    },
    "small": SMALL,
    # A warp is learned by a base model that reaches the accuracy of an ordinary classifier, and not in the four epochs
    # that `small` leaves for 10,000 images. Such a model is confused at a higher rate.
    "medium": SMALL
    | {
        "architecture": "fast_convnet",
        "suspect_size": 10_000,
        "ratios": (1 / 5, 1 / 10, 1 / 20),
        "pretrain_recipe": "fast",
        "pretrain_epochs": (20, 12, 12, 12),
        "confusion_steps": (250,),
        "confusion_lr": (0.01,),
        "precision": "fastest",
    },
    "demo": SMALL
    | {
        "suspect_size": 1_150,
        "reserved_size": 150,
        "ratios": (1 / 2, 1 / 5, 1 / 10),
        "pretrain_epochs": (8, 8, 12, 12),
        "confusion_steps": (200,),
        "last_models": 2,
    },
    "parity": {
        "schedule": "as_set",
        "suspect_size": None,
        "reserved_size": None,
        "rule": "ratio",
        "held_out": 0,
        "last_models": 1,
        "mixed_in": False,
        "fdr": None,
    },
}
