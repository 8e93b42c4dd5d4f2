"""Image variations, what it reports: how the teacher classifies variations, compared with their images and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.classifier.classifier import Classifier
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...core.panels import Bars, Level, Lines, Panel, Series, line_panels
from ...core.pixels import as_float


def compare(teacher: Classifier, train: ImageSet, variations: ImageSet, count: int) -> tuple[Any, list[dict[str, Any]]]:
    """Return scores ``[N]`` and a table with a row per class.

    - ``scores``: the share of probability that the teacher, shown the variations of a sample, gives to other labels
      than the sample's own. Where the generator removes triggers, poison samples come first.
    - ``agreement``: the share of variations that the teacher sees as their image.
    - ``relabelled``: the share that it sees as another class than the label. High in one class: triggers were removed
      there (or the class was lost). In a class where both are low, triggers may have survived.

    :param variations: ``[N · K]``.
    :param count: K.
    """
    before = np.repeat(teacher.predict(train).argmax(1), count)
    logits = teacher.predict(variations)
    after, labels = logits.argmax(1), variations.labels
    other = 1 - softmax(logits)[np.arange(len(labels)), labels]
    rows = []
    for label in range(train.num_classes):
        here = labels == label
        rows.append(
            {
                "class": label,
                "samples": int(here.sum()) // count,
                "agreement": _share((after == before)[here]),
                "relabelled": _share((after != labels)[here]),
            }
        )
    return other.reshape(-1, count).mean(1), rows


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities ``[n, C]``, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _share(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None


def sanitised(train: ImageSet, variations: ImageSet, count: int) -> ImageSet | None:
    """Return the suspect set with *variations* as its images, in its own type; None where they are no such set.

    They are none where there are several per image, or where they are stored in another size.

    :param variations: uint8 ``[N · K]``.
    :param count: K.
    """
    if count != 1 or variations.image_shape != train.image_shape:
        return None
    same = variations if train.images.dtype == np.uint8 else as_float(variations)
    return train.replace(images=same.read(slice(None)))


def notes_on(counts: dict[str, int], settings_kept: str | None, count: int, *, fits: bool) -> list[str]:
    """Return what a reader must know about the variations.

    :param counts: ``regenerated`` and ``blank``.
    :param settings_kept: the folder that keeps them, or None.
    :param count: K.
    :param fits: whether they have the size of the suspect images.
    """
    notes = []
    if not fits:
        notes.append("variations are stored in another size than the suspect images: no sanitised set is returned")
    if counts["regenerated"]:
        notes.append(f"{counts['regenerated']} blank variations were made again; {counts['blank']} are blank still")
    if count > 1 and settings_kept is None:
        notes.append(
            f"{count} variations per image are no sanitised set of one image each, so only the student is returned; "
            "name a folder (variations=FOLDER) to keep them"
        )
    elif count > 1:
        notes.append(
            f"the variations are in {settings_kept}/images/data.npy: variation k of image i in row i·{count} + k"
        )
    return notes


def panels_of(outcome: Outcome, agreement: float) -> list[Panel]:
    """Return the search of the strength, what the teacher sees in the variations of each class, and how both learned.

    :param agreement: share of clean images that the teacher must still recognise in their variations.
    """
    curves, classes = outcome.curves, outcome.tables.get("classes") or []
    panels: list[Panel] = []
    if curves.get("strength"):
        panels.append(
            Lines(
                title="Search of the strength",
                caption="Share of reserved clean images whose variation the teacher still recognises, for every "
                "strength that was tried. The highest one above the line is taken: it takes most of a trigger away.",
                series=[Series(name="agreement", x=curves["strength"], y=curves["strength_agreement"], mark=True)],
                levels=[Level(name="wanted", value=agreement)],
                x_label="strength",
                y_label="agreement",
            )
        )
    if classes:
        panels.append(
            Bars(
                title="Variations in the teacher's eyes",
                caption="Per label: the share of variations seen as their image is, and the share seen as another "
                "class than the label. Much of the latter in one class alone: triggers were removed there.",
                labels=[str(row["class"]) for row in classes],
                values={
                    "seen as their image": [row["agreement"] for row in classes],
                    "seen as another class": [row["relabelled"] for row in classes],
                },
                x_label="label",
                y_label="share",
            )
        )
    learning = (
        ("Teacher", "Loss on the suspect set, by epoch.", ("teacher_loss",)),
        ("Student", "Distillation (kd) and hard labels (ce), by epoch.", ("student_loss", "student_kd", "student_ce")),
    )
    return panels + line_panels(curves, learning, x_label="epoch")
