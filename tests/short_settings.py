"""Settings that make a run of each defense short."""

from __future__ import annotations

from typing import Any

SHORT: dict[str, dict[str, Any]] = {
    "d3": {"epochs": 1},
    "confusion_training": {
        "architecture": "small_resnet",
        "reference": "labels",
        "ratios": (0.5,),
        "suspect_size": None,
        "reserved_size": None,
        "pretrain_epochs": (1,),
        "confusion_steps": (4,),
        "confusion_batch": 16,
        "confusion_lr": (0.01,),
        "lam": (10,),
        "shifted_from": 2,
    },
    "eclipse": {
        "fit": {"size": "tiny", "length": 1000, "t_train_max": 40, "iterations": 3, "batch_size": 4},
        "purification": {"level": {"steps": 25, "of": 1000}, "steps": 2},
    },
    "dataelixir": {
        "architecture": "fast_resnet",
        "fit": {"size": "tiny", "iterations": 2, "batch_size": 4},
        "purification": {"level": {"steps": 30, "of": 1000, "schedule": "linear"}, "rounds": 2, "steps": 3},
        "states": 2,
        "threshold": 2,
        "recipe": {"epochs": 1, "batch_size": 32},
        "detection": {"mode": "given", "targets": [0]},
    },
    "image_variations": {
        "architecture": "fast_resnet",
        "backend": "sdedit",  # not whichever pipeline this machine holds
        "teacher": "train",
        "fit": {"size": "tiny", "iterations": 2, "batch_size": 4},
        "num_inference_steps": 4,
        "search": {"candidates": (0.1, 0.2), "images": 16, "agreement": 0.0},
        "recipe": {"epochs": 1, "batch_size": 32},
    },
    "drop_class": {"architecture": "fast_resnet", "recipe": {"epochs": 1, "batch_size": 32}},
    "finetune": {"epochs": 1},
    "random_head": {"epochs": 1},
    "train_on_clean_only": {"architecture": "fast_resnet", "epochs": 1},
}
_ELIXIR = SHORT["dataelixir"]
SHORT["pipeline"] = {
    "steps": [
        {"drop_class": SHORT["drop_class"]},
        {
            "dataelixir": {**{key: each for key, each in _ELIXIR.items() if key != "detection"}, "train_final": False},
            "only": "flagged",
            "target": "from_flags",
        },
        {"retrain": {"recipe": {"epochs": 1, "batch_size": 32}}, "drop": "unrepaired"},
        {"d3": {"epochs": 1}},
    ]
}
