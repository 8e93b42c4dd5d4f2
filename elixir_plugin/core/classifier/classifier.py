"""A classifier whose inputs are always in [0, 1]: a module, its normalisation, and where its head is."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from ...errors import InputError, SettingsError, nearest, preview_list
from ...io.files import read_tensors, write_json, write_tensors
from ...plugins import plugins
from ..images import ImageSet, checked_classes
from .weights import load_by_name, read_facts, unwrap


class Classifier(nn.Module):
    """An image classifier for inputs ``[B, C, H, W]``, float in [0, 1].

    :param module: maps normalised images to logits ``[B, num_classes]``.
    :param mean, std: per-channel normalisation of pixels in [0, 1], applied inside; one value serves all channels.
    :param architecture: name under which :func:`build_module` can build ``module`` again.
    :param input_size: edge length to resize to (bilinear) before the module, for networks with a fixed input.
    :param classes: ``[num_classes]`` names of the classes in the order of the logits, where they are known.
    :raises InputError: for a mean or standard deviation that pixels in [0, 1] cannot have, or names that are not one
        per class.

    >>> model = Classifier.build("small_resnet", num_classes=10, seed=0)
    >>> model.logits(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        channels: int = 3,
        architecture: str | None = None,
        input_size: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        _refuse_other_scale(mean, std)
        self.module = unwrap(module)
        self.num_classes = num_classes
        self.channels = channels
        self.architecture = architecture
        self.input_size = input_size
        self.classes = checked_classes(classes, num_classes)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self._head: str | None = None

    @classmethod
    def build(cls, architecture: str, num_classes: int, *, channels: int = 3, seed: int = 0, **options: Any) -> Self:
        """Make a classifier of a known architecture with fresh weights drawn under *seed*."""
        with _drawing(seed):
            module = build_module(architecture, num_classes, channels)
        return cls(module, num_classes, channels=channels, architecture=architecture, **options)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        """Resize if need be, normalise, and return logits ``[B, num_classes]``; see :meth:`logits`."""
        size = self.input_size
        if size is not None and images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        logits: Tensor = self.module((images - self.mean) / self.std)
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` of images ``[B, C, H, W]`` in [0, 1]."""
        return self(images)  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(logits [B, num_classes], features [B, D])`` from one pass; features are what enters the head."""
        caught: list[Tensor] = []
        head = self.module.get_submodule(self.head(images))
        handle = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            logits = self(images)
        finally:
            handle.remove()
        return logits, caught[-1].flatten(1)

    def head(self, images: Tensor) -> str:
        """Return the dotted name of the classification layer inside ``module``, found once with a small batch."""
        if self._head is None:
            self._head = find_head(self, images[:2])
        return self._head

    def clone(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)

    def fresh(self, seed: int) -> Self:
        """Return the same architecture on the same device with new weights drawn under *seed*, in training mode.

        :raises InputError: when the module has weights that nothing can draw again.
        """
        new = self.clone().cpu()  # drawn there, so that weights do not depend on the device
        with _drawing(seed):
            if self.architecture is not None:
                new.module = build_module(self.architecture, self.num_classes, self.channels)
            else:
                _reset(new.module)
        return new.to(self.device).train().requires_grad_(True)

    @torch.inference_mode()
    def predict(self, images: ImageSet, batch_size: int | None = None) -> NDArray[np.float32]:
        """Return logits ``[N, num_classes]`` of a whole set, in eval mode; leaves the modes as they were."""
        if batch_size is None:
            batch_size = 128 if self.device.type == "cpu" else 512  # on a CPU, larger ones spill out of the cache
        with evaluating(self):
            parts = [self(to_batch(chunk, self.device)).float().cpu() for _, chunk in images.chunks(batch_size)]
        return torch.cat(parts).numpy() if parts else np.empty((0, self.num_classes), np.float32)

    def fingerprint(self) -> str:
        """Return 12 hex digits over what decides the logits: weights, architecture, resizing and normalisation."""
        facts = [self.architecture, self.input_size, self.mean.flatten().tolist(), self.std.flatten().tolist()]
        digest = hashlib.sha256(repr(facts).encode())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``model.json`` to *folder*."""
        folder = Path(folder)
        facts: dict[str, Any] = {
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "channels": self.channels,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "input_size": self.input_size,
        }
        if self.classes is not None:
            facts["classes"] = list(self.classes)
        write_tensors(folder / "model.safetensors", self.module.state_dict())
        write_json(folder / "model.json", facts)

    @classmethod
    def load(cls, folder: str | Path, module: nn.Module | None = None) -> Self:
        """Read a classifier back; *module* is needed when it was saved without an architecture name.

        :raises InputError: when a file is missing, damaged, or does not fit the other one.
        """
        folder = Path(folder)
        facts = read_facts(folder / "model.json")
        if module is None:
            if facts.architecture is None:
                raise InputError("model saved without architecture", where=folder, hint="pass the module to load into")
            module = build_module(facts.architecture, facts.num_classes, facts.channels)
        load_by_name(module, read_tensors(folder / "model.safetensors"), where=str(folder))
        return cls(module, **facts.model_dump()).eval()


def to_batch(images: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Turn ``[B, H, W, C]`` uint8 or float images into a float ``[B, C, H, W]`` batch in [0, 1] on *device*.

    The result is a view in channels-last memory order.
    """
    batch = torch.as_tensor(images).to(device, non_blocking=True)
    batch = batch.permute(0, 3, 1, 2)
    return batch.float().div_(255) if batch.dtype == torch.uint8 else batch.float()


def build_module(architecture: str, num_classes: int, channels: int = 3) -> nn.Module:
    """Make a module by name: one offered by a plugin, else one of torchvision's classification models.

    :raises SettingsError: for an unknown name, or a torchvision model with other than 3 channels.
    """
    offered = plugins().offers()["architecture"]
    if architecture in offered:
        factory: Callable[[int, int], nn.Module] = plugins().get("architecture", architecture)
        return factory(num_classes, channels)
    import torchvision  # noqa: PLC0415  (slow, and needed for torchvision's architectures only)

    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise SettingsError(
            "unknown architecture",
            found=architecture,
            allowed=f"{', '.join(sorted(offered))}, or a torchvision classification model",
            hint=nearest(architecture, [*offered, *known]),
        )
    if channels != 3:
        raise SettingsError("torchvision models take 3 channels", where=architecture, found=channels)
    extra = {"aux_logits": False, "init_weights": True} if architecture in ("googlenet", "inception_v3") else {}
    module: nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=num_classes, **extra)
    return module


def find_head(model: Classifier, images: Tensor) -> str:
    """Return the name of the last executed linear layer (else 1×1 convolution) as wide as the logits.

    Execution order counts, not registration order. A model that ends with attention has no such layer: its head is
    several weights.

    :raises InputError: when no layer fits; the whole model is never meant instead.
    """
    ran: list[tuple[str, nn.Module, int]] = []

    def watch(name: str, layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(layer, nn.MultiheadAttention):
            output = output[0]
        width = output.shape[1] if isinstance(layer, nn.Conv2d) else output.shape[-1]
        ran.append((name, layer, width))

    handles = [
        layer.register_forward_hook(partial(watch, name))
        for name, layer in model.module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.MultiheadAttention)
    ]
    try:
        with torch.inference_mode(), evaluating(model):
            width = model(images).shape[-1]
    finally:
        for handle in handles:
            handle.remove()
    wide = [(name, layer) for name, layer, out in ran if out == width]
    fits = [(name, layer) for name, layer in wide if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1)]
    if not fits or isinstance(fits[-1][1], nn.MultiheadAttention):
        raise InputError(
            "no classification layer found",
            where=type(model.module).__name__,
            found="attention comes last" if fits else None,
            allowed=f"a Linear or 1×1 Conv2d with {width} outputs",
            hint=f"name the layer yourself, e.g. {{setting:select=[{fits[-1][0] if fits else 'classifier.6'}]}}",
        )
    linears = [name for name, layer in fits if isinstance(layer, nn.Linear)]
    return linears[-1] if linears else fits[-1][0]


def _refuse_other_scale(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a normalisation that is meant for pixels of another range than [0, 1], e.g. a mean of 123.7."""
    bad = [f"mean {value}" for value in mean if not 0 <= value <= 1] + [
        f"std {value}" for value in std if not 0 < value <= 1
    ]
    if bad:
        raise InputError(
            "mean and standard deviation are not those of pixels in [0, 1]",
            where="mean, std",
            found=preview_list(bad),
            allowed="mean in [0, 1], std above 0 and at most 1",
            hint="divide both by 255 when they are meant for pixels in 0..255",
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put *module* into eval mode, and every part of it back into its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Seed the stream that weights are drawn from, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the host's CUDA streams too
        yield


def _reset(module: nn.Module) -> None:
    covered: set[int] = set()
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if callable(reset):
            reset()
            covered |= {id(parameter) for parameter in layer.parameters()}
    left = [name for name, parameter in module.named_parameters() if id(parameter) not in covered]
    if left:
        raise InputError(
            "module cannot be drawn anew",
            where=type(module).__name__,
            found=f"no reset_parameters() for {preview_list(left)}",
            hint="build the classifier by architecture name",
        )
