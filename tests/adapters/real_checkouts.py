"""Checkouts of toolkits, in the folder that ``ELIXIR_TOOLKITS`` names, for tests marked ``toolkit``."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

MARKS = {  # a file that a checkout has
    "BackdoorBench": "utils/save_load_attack.py",
    "BackdoorBox": "core/attacks/BadNets.py",
    "backdoor-toolbox": "utils/supervisor.py",
}
NEEDS = {  # packages that its modules import, and elixir_plugin does not
    "BackdoorBench": ("pandas", "cv2", "kornia", "imageio", "pytorch_wavelets", "pywt"),
    "BackdoorBox": ("cv2",),
}


def real_checkout(name: str, *, imported: bool = True) -> Path:
    """Return the folder of a checkout; the test is skipped where there is none, or packages lack.

    :param imported: the test imports the toolkit's own modules as they are.
    """
    folder = Path(os.environ.get("ELIXIR_TOOLKITS", "")) / name
    if not (folder / MARKS[name]).is_file():
        pytest.skip(f"ELIXIR_TOOLKITS names no folder with a checkout of {name}")
    lacking = [each for each in NEEDS.get(name, ()) if imported and importlib.util.find_spec(each) is None]
    if lacking:
        pytest.skip(f"{name} imports packages that are not installed: {', '.join(lacking)}")
    return folder
