"""What toolkits do to images before their networks see them, held against what a network was trained with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.classifier.classifier import Classifier


def assumed_normalisation(dataset: str, mean: Sequence[float] | None, std: Sequence[float] | None) -> list[str]:
    """Return a note on what stands in for a normalisation that neither the toolkit nor an option says; none if both do.

    :param mean, std: what the options say of a data set that the toolkit does not know.

    >>> assumed_normalisation("own", (0.5,), None)
    ["normalisation of data set 'own' is not known: std 1 is assumed; see options mean, std"]
    """
    parts = [text for text, value in (("mean 0", mean), ("std 1", std)) if value is None]
    if not parts:
        return []
    said = " and ".join(parts) + (" is" if len(parts) == 1 else " are")
    return [f"normalisation of data set {dataset!r} is not known: {said} assumed; see options mean, std"]


def unlike_host(
    model: Classifier, toolkit: str, mean: Sequence[float], std: Sequence[float], input_size: int | None = None
) -> list[str]:
    """Return notes on what the toolkit does otherwise than *model* expects, so that its numbers will be others.

    :param mean, std: normalisation that the toolkit applies.
    :param input_size: edge length that it resizes to, if it does.
    """
    found = []
    for name, theirs in (("mean", mean), ("std", std)):
        own = getattr(model, name).flatten().cpu().numpy()
        if not np.allclose(own, np.asarray(theirs, np.float32), atol=1e-6):  # one value may stand for all channels
            found.append(f"{name} {_short(own.tolist())} instead of {_short(theirs)}")
    if model.input_size != input_size:
        found.append(f"images resized to {model.input_size or 'nothing'} instead of {input_size or 'nothing'}")
    if not found:
        return []
    return [
        f"the written model expects {', '.join(found)}, which {toolkit} applies: measured there, it will not have the "
        "numbers of this report"
    ]


def _short(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
