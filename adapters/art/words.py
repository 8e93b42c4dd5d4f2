"""Errors in the words of ART's own parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ...defense import NEEDS
from ...errors import ElixirError, in_python, spelled

Method = TypeVar("Method", bound=Callable[..., Any])
PARAMETERS = {  # what other callers give -> the parameter here
    "layout=nhwc": "channels_first=False",
    "layout=nchw": "channels_first=True",
    "num_classes": "nb_classes",
    "clean": "x_clean and y_clean",
    "model": "classifier",
}
NEEDED = {
    "train": "pass the training set, x and y",
    "clean": "pass the reserved clean set, x_clean and y_clean",
    "model": "pass the trained classifier; to a trainer also trained=True",
}


def in_arts_words(method: Method) -> Method:
    """Let the errors of *method* name what a caller in ART gives."""

    @wraps(method)
    def speaking(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except ElixirError as error:
            marked = {name: getattr(error, f"marked_{name}") for name in ("where", "allowed", "hint")}
            need = next((name for name, hint in NEEDS.items() if hint == marked["hint"]), "")
            marked["hint"] = NEEDED.get(need, marked["hint"])
            for name, text in marked.items():
                setattr(error, name, spelled(text, in_art))
            raise

    return speaking  # type: ignore[return-value]


def in_art(kind: str, text: str) -> str:
    """Spell a mark for a caller in ART.

    >>> in_art("option", "layout=nhwc"), in_art("argument", "num_classes=10"), in_art("setting", "lam=1")
    ('channels_first=False', 'nb_classes=10', 'lam=1')
    """
    if kind not in ("option", "argument"):
        return in_python(kind, text)
    name, equals, value = text.partition("=")
    return PARAMETERS.get(text) or PARAMETERS.get(name, name) + (equals + value if name == "num_classes" else "")
