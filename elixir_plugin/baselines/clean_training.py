"""Settings of baselines that train a received model further on the reserved clean set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..core.augmentation import Augmentation
from ..core.settings import Settings
from ..training.batches import few_images_batch
from ..training.loop import Recipe


class CleanTraining(Settings):
    """How a received model is trained on the reserved clean set: SGD, the rate falling along a cosine."""

    basic = ("epochs", "batch_size", "lr", "augmentation.crop", "augmentation.flip")

    epochs: int = Field(100, ge=1, description="passes over the reserved clean set")
    batch_size: int | None = Field(
        None, ge=2, description="default: 256, or less so that an epoch has 8 steps (at least 32)"
    )
    lr: float = Field(0.01, gt=0, description="learning rate at the start; falls along a cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty")
    augmentation: Augmentation = Field(Augmentation(crop=4, flip="auto"), description="of the reserved clean images")
    precision: Literal["auto", "float32", "bf16"] = Field("float32", description="auto: bf16 autocast on CUDA only")

    def recipe(self, count: int) -> Recipe:
        """Return the recipe for a reserved clean set of *count* images."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "batch_size"}
        return Recipe(**values, batch_size=self.batch_size or few_images_batch(count), schedule="cosine")
