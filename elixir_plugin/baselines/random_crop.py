"""Random crops: train on shifted and mirrored images, so that a trigger in a corner is often cut away.

Borgnia et al., ICASSP 2021, arXiv 2011.09527, show that strong augmentation of the training images weakens poisons; the
crop with padding is its mildest kind, and the one that every recipe already has.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..core.augmentation import Augmentation
from ..core.case import Case
from ..core.context import Context
from ..core.mirroring import settled
from ..core.outcome import Outcome
from ..core.settings import Settings
from ..defense import Card, Defense


class RandomCropSettings(Settings):
    """Settings of the baseline ``random_crop``."""

    crop: int | None = Field(
        None, ge=1, description="pixels of zero padding before the crop; default: a quarter of the shorter edge"
    )
    flip: bool | Literal["auto"] = Field(
        "auto", description="mirror left-right with probability 1/2; auto: where that does no harm"
    )


class RandomCrop(Defense):
    """Leave the set as it is, and have it trained on with large random shifts."""

    name = "random_crop"
    kind = "purify"
    needs = frozenset({"train"})
    Settings = RandomCropSettings
    settings: RandomCropSettings
    card = Card(
        title="Random crops",
        paper="after Borgnia et al.: Strong Data Augmentation Sanitizes Poisoning and Backdoor Attacks Without an "
        "Accuracy Tradeoff, ICASSP 2021, arXiv 2011.09527",
        year=2021,
        claims="weakens triggers whose place at the edge of the image matters",
        cost="none; twice the shift of an ordinary recipe costs some accuracy in short trainings",
        limits="a trigger in a corner is still seen whole in more than a quarter of the images, in other places; "
        "changes nothing where the retraining crops as much anyway",
    )

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        crop = self.settings.crop or max(1, min(case.train.image_shape[:2]) // 4)
        added = settled(Augmentation(crop=crop, flip=self.settings.flip), case, context)
        return Outcome(train=case.train, augmentation=added)
