"""DataElixir, step 4 with a yardstick: what purification does to images that are known to be clean.

The paper compares classes with each other, by how the votes of label-changing samples scatter. Where purification moves
many labels by itself (a weak probe, a small denoiser, small data), benign samples scatter as well, and a class that is
merely hard looks like a target. Reserved clean images that go through the same walk show what would stay on each class
without an attack. Benign suspects keep more than that, because the probe was trained on them; of a target class much
less stays, because its poison goes back to other classes. This rule is the project's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...core.case import ImageSet, Index
from ...core.context import Context
from ...diffusion.fit.choose import count_seen
from .purify import Candidates, Walker, make_copies, predict_slots
from .votes import Reference, kept_shares


def some_clean(clean: ImageSet, per_class: int, context: Context) -> Index:
    """Return ascending positions of at most ``per_class · C`` images, drawn at random."""
    order = torch.randperm(len(clean), generator=context.generator("dataelixir", "reference")).numpy()
    return np.sort(order[: per_class * clean.num_classes])


def make_reference(walker: Walker, folder: Path, context: Context) -> Reference:
    """Purify the images of *walker*, which are clean, and count how many of their copies keep the label.

    :param folder: where the copies go.
    """
    assert walker.probe is not None
    rows = np.arange(len(walker.images))
    if seen := count_seen(walker.denoiser, walker.images):
        context.note(
            f"the denoiser was trained on {seen} of the {len(rows)} reserved clean images that suspects are compared "
            "with: once purified, these may keep their labels more often than benign suspects do"
        )
    candidates = Candidates(walker.images, walker.settings.slots)
    with context.stage("purify"):
        candidates.add(rows, make_copies(walker, rows, folder, context, "purifying clean images"))
    with context.stage("vote"):
        labels = predict_slots(walker.probe, candidates, rows, context, "votes on clean images")
    return Reference(*kept_shares(labels, walker.images.labels, walker.images.num_classes))
