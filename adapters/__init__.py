"""The adapters in the box, offered through the same hook as everyone else's. Nothing heavy is imported here."""

from __future__ import annotations

from ..hookspecs import Entry, hookimpl


@hookimpl
def elixir_adapters() -> list[Entry]:
    return [
        Entry(
            "backdoorbench",
            "elixir_plugin.adapters.backdoorbench:BackdoorBench",
            summary="a BackdoorBench record: record/<name>/attack_result.pt",
        ),
        Entry(
            "backdoor_toolbox",
            "elixir_plugin.adapters.backdoor_toolbox:BackdoorToolbox",
            summary="a backdoor-toolbox or Fight-Poison set: poisoned_train_set/<dataset>/<dir>/",
        ),
        Entry(
            "image_folder",
            "elixir_plugin.adapters.image_folder:ImageFolder",
            summary="image files in class folders: <path>/<class>/<file>",
        ),
        Entry(
            "cifar",
            "elixir_plugin.adapters.cifar:Cifar",
            summary="CIFAR-10 or CIFAR-100 as torchvision unpacks it: <path>/cifar-10-batches-py",
        ),
        Entry(
            "arrays",
            "elixir_plugin.adapters.arrays:Arrays",
            summary="numpy arrays in one .npz file, or in memory",
        ),
    ]
