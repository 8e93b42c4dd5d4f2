"""The input-aware backdoor: a small network draws a trigger of its own for each image, which works on no other."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..core import settings as config
from ..core.classifier.classifier import to_batch
from ..core.classifier.fresh import drawing
from ..core.context import Context, derive_seed
from ..core.images import ImageSet, Index
from ..core.pixels import to_floats
from ..errors import InputError
from ..training.batches import Batch, Samples, ShuffledBatches
from ..training.loop import Losses, Objective, Recipe, train
from .adaptive import Covered
from .base import BackdoorSettings, Pixels
from .keeping import Arrays
from .learning import Learning
from .surrogate import Surrogate, untrained_surrogate

BLOCK = 64  # images that go through the networks at a time, always as many, so that company changes no bits
WIDTH = 16
DENSITY_WEIGHT = 100.0  # of the loss that keeps masks small, as in the released code
SHARPNESS = 40.0  # of the step that makes masks nearly black and white
ADAM = {
    "epochs": 20,
    "batch_size": 128,
    "least_steps": 32,
    "optimizer": "adam",
    "lr": 5e-3,
    "weight_decay": 0.0,
    "precision": "float32",
}


class InputAwareSettings(BackdoorSettings):
    """Settings of :class:`InputAware`.

    :param cover_rate: share of all training samples that becomes cover samples, with the trigger of another image.
    :param density: share of the pixels above which a mask is punished.
    :param diversity: weight of the loss that keeps the triggers of two images apart.
    :param share: of each batch that carries its trigger, and that carries another image's, while the networks train.
    :param mask_epochs: passes in which the network of the masks is trained.
    :param surrogate: the attacker's classifier, and how it trains together with the network of the patterns.
    :param pattern_seed: decides weights and training of the networks, and whose trigger a cover carries.
    """

    labels: Literal["all_to_one", "all_to_all"] = "all_to_one"
    cover_rate: float = Field(0.1, ge=0, le=1)
    density: float = Field(0.032, gt=0, le=1)
    diversity: float = Field(1.0, ge=0, allow_inf_nan=False)
    share: float = Field(0.2, gt=0, le=0.4)
    mask_epochs: int = Field(10, ge=0)
    surrogate: Surrogate = Surrogate(recipe=Recipe.build(ADAM))
    pattern_seed: int = 0


class InputAware(Learning, Covered):
    """A pattern and a mask drawn for each image; covers carry those of another image and keep their labels.

    Nguyen and Tran, "Input-Aware Dynamic Backdoor Attack", NeurIPS 2020, arXiv 2010.08138: first the network of the
    masks is trained to be sparse and diverse, then that of the patterns together with a classifier, on triggered
    samples under the target label and crossed ones under their own. Theirs then ships that classifier. Here the
    networks poison the set once, and whoever trains on it learns the backdoor from the set alone.
    """

    name: ClassVar[str] = "input_aware"
    Settings: ClassVar[type[config.Settings]] = InputAwareSettings
    settings: InputAwareSettings
    unlearned = frozenset({"rate", "cover_rate"})

    def learn(self, train: ImageSet, context: Context) -> Arrays:
        self._refuse_foreign_target(train.num_classes)
        classifier = untrained_surrogate(train, self.settings.surrogate, context)
        mask, pattern = (self._network(train.image_shape[2], name, context) for name in ("mask", "pattern"))
        with context.stage("triggers"):
            self._train_masks(mask, train, context)
            self._train_patterns(_Attack(pattern, classifier), mask, train, context)
        return {
            f"{name}.{key}": value.cpu().numpy()
            for name, network in (("mask", mask), ("pattern", pattern))
            for key, value in network.state_dict().items()
        }

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        return self._drawn_on(images, images)

    def cover_trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        source = self._source
        if source is None:
            raise InputError("no set to take other triggers from", where="poison input_aware", hint="call fitted()")
        order = np.argsort(source.ids)
        seed = derive_seed(self.settings.pattern_seed, self.name, "partner")
        rows = np.array([derive_seed(seed, each) % len(order) for each in ids.tolist()], np.int64)
        own = source.ids[order[rows]] == ids
        others = source.read(order[(rows + own) % len(order)])
        return self._drawn_on(images, to_floats(others))

    def _network(self, channels: int, name: str, context: Context) -> TriggerNet:
        with drawing(context.derive_seed(self.name, name)):
            return TriggerNet(channels, 1 if name == "mask" else channels).to(context.device)

    def _train_masks(self, mask: TriggerNet, images: ImageSet, context: Context) -> None:
        settings = self.settings

        def objective(model: nn.Module, batch: Batch) -> Losses:
            masks = _stepped(model(batch.images))
            apart = _diversity(batch.images, batch.images.roll(1, 0), masks, masks.roll(1, 0))
            dense = F.relu(masks - settings.density).mean()
            return {"loss": DENSITY_WEIGHT * dense + settings.diversity * apart, "dense": dense}

        self._train(mask, settings.mask_epochs, objective, images, context)
        mask.requires_grad_(False)

    def _train_patterns(self, attack: _Attack, mask: TriggerNet, images: ImageSet, context: Context) -> None:
        settings = self.settings

        def objective(model: nn.Module, batch: Batch) -> Losses:
            assert isinstance(model, _Attack)
            x, y = batch.images, batch.targets
            count = max(1, round(settings.share * len(x)))
            patterns, masks = model.pattern(x), _stepped(mask(x))
            triggered = x + (patterns - x) * masks
            others = x + (patterns.roll(1, 0) - x) * masks.roll(1, 0)
            shown = torch.cat([triggered[:count], others[count : 2 * count], x[2 * count :]])
            wanted = (y + 1) % images.num_classes if settings.labels == "all_to_all" else y * 0 + settings.target
            logits = model.classifier(shown)
            loss = F.cross_entropy(logits, torch.cat([wanted[:count], y[count:]]))
            apart = _diversity(x, x.roll(1, 0), patterns, patterns.roll(1, 0))
            return {"loss": loss + settings.diversity * apart, "diversity": apart}

        self._train(attack, settings.surrogate.recipe.epochs, objective, images, context)

    def _train(self, model: nn.Module, epochs: int, objective: Objective, images: ImageSet, context: Context) -> None:
        recipe = self.settings.surrogate.recipe.for_size(len(images))
        recipe = recipe.build({**recipe.dump(), "epochs": epochs})
        name = f"{self.name} {type(model).__name__}"
        samples = Samples(images, context.device)
        source = ShuffledBatches(samples, recipe.batch_size, context, recipe.augmentation, name)
        train(model, source, recipe, context, objective=objective, name=name)

    def _drawn_on(self, images: Pixels, sources: Pixels) -> Pixels:
        """Return *images* with the triggers of *sources*."""
        networks = []
        for name, outputs in (("mask", 1), ("pattern", images.shape[3])):
            network = TriggerNet(images.shape[3], outputs)
            network.load_state_dict(
                {key: torch.from_numpy(np.array(self.known(f"{name}.{key}"))) for key in network.state_dict()}
            )
            networks.append(network.eval())
        mask, pattern = networks
        out = np.empty_like(images)
        for start in range(0, len(images), BLOCK):
            part = slice(start, start + BLOCK)
            block = np.zeros((BLOCK, *images.shape[1:]), np.float32)
            block[: len(sources[part])] = sources[part]
            with torch.no_grad():
                x = to_batch(block, torch.device("cpu"))
                drawn, weights = (each.permute(0, 2, 3, 1).numpy() for each in (pattern(x), _stepped(mask(x))))
            here = images[part]
            out[part] = here + (drawn[: len(here)] - here) * weights[: len(here)]
        return out


class TriggerNet(nn.Module):
    """Two halvings of the resolution and back; values in (0, 1), as large as the images."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        widths = (WIDTH, 2 * WIDTH, 2 * WIDTH, WIDTH)
        inputs = (channels, *widths[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(old, new, 3, padding=1, bias=False), nn.BatchNorm2d(new), nn.ReLU())
            for old, new in zip(inputs, widths, strict=True)
        )
        self.last = nn.Conv2d(WIDTH, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        size, half = x.shape[2:], [max(1, edge // 2) for edge in x.shape[2:]]
        out = F.adaptive_max_pool2d(self.blocks[0](x), half)
        out = F.adaptive_max_pool2d(self.blocks[1](out), [max(1, edge // 2) for edge in half])
        out = F.interpolate(self.blocks[2](out), size=half, mode="nearest")
        out = F.interpolate(self.blocks[3](out), size=size, mode="nearest")
        drawn: Tensor = torch.sigmoid(self.last(out))
        return drawn


class _Attack(nn.Module):
    def __init__(self, pattern: TriggerNet, classifier: nn.Module) -> None:
        super().__init__()
        self.pattern, self.classifier = pattern, classifier


def _stepped(masks: Tensor) -> Tensor:
    return torch.sigmoid(SHARPNESS * (masks - 0.5))


def _diversity(images: Tensor, others: Tensor, drawn: Tensor, drawn_for_others: Tensor) -> Tensor:
    """Return the mean of how far two images lie apart over how far what was drawn for them does."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().mean((1, 2, 3)) + 1e-8).sqrt()

    return (distance(images, others) / distance(drawn, drawn_for_others)).mean()
