"""Suspect models for poisoned cases made on the spot: trained once, the same wherever and whenever."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..core.case import Case
from ..core.classifier.classifier import Classifier
from ..core.context import Context
from ..errors import InputError
from ..training.loop import Recipe, Samples, ShuffledBatches, train


class SuspectRecipe(Recipe):
    """How the suspect model of a testbed case is trained; the defaults fit the digits."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = Field(0.05, gt=0)
    schedule: Literal["constant", "cosine", "step"] = "cosine"


def train_suspect(
    case: Case, recipe: SuspectRecipe, context: Context, architecture: str = "small_resnet"
) -> Classifier:
    """Return a classifier trained on the suspect set of *case*, as a person without suspicion would.

    Its tensors lie in memory as those of a loaded model do, so that whoever goes on with it computes the same bits
    whether the model was just trained or read from disk.

    :raises InputError: when the case holds no suspect set.
    """
    if case.train is None:
        raise InputError("nothing to train on", where="case.train", allowed="a suspect set")
    seed = context.derive_seed("demo", "model")
    channels = case.train.image_shape[2]
    model = Classifier.build(architecture, case.num_classes, channels=channels, seed=seed).to(context.device)
    samples = Samples(case.train, context.device)
    source = ShuffledBatches(samples, recipe.batch_size, context, recipe.augmentation, "suspect")
    with context.stage("train suspect model"):
        train(model, source, recipe, context, name="suspect")
    plain = Classifier.build(architecture, case.num_classes, channels=channels, seed=seed)
    plain.load_state_dict(model.state_dict())
    return plain.to(context.device).eval()
