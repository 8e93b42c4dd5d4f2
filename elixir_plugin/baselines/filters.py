"""What all baselines share that change every image by a formula."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from torch import Tensor

from ..core.case import Case
from ..core.classifier.classifier import to_batch
from ..core.context import Context
from ..core.images import ImageSet
from ..core.outcome import Outcome
from ..core.pixels import rms_changes
from ..defense import Defense


class Filter(Defense):
    """Change every suspect image, keep labels and order."""

    kind = "purify"
    needs = frozenset({"train"})
    by_image = True

    @abstractmethod
    def filtered(self, images: ImageSet, context: Context) -> ImageSet:
        """Return the same samples with other pixels of the same type; each depends on its image and its id alone."""

    def warn(self, images: ImageSet, context: Context) -> None:
        """Note what a reader should know about such images. Optional."""

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        self.warn(case.train, context)
        with context.stage(self.name):
            images = self.filtered(case.train, context)
        return Outcome(train=images, tables={"rms_change": _rms(case.train, images)})

    def preview(self, case: Case, context: Context, count: int) -> list[Tensor]:
        self.refuse(case)
        train = case.visible().train
        assert train is not None
        few = train.subset(np.arange(min(count, len(train))))
        return [to_batch(each.read(slice(None)), context.device) for each in (few, self.filtered(few, context))]


def _rms(before: ImageSet, after: ImageSet) -> float:
    return float(np.sqrt(np.square(rms_changes(before, after)).mean()))
