"""A classifier whose inputs are always in [0, 1]: a module, its normalisation, and where its head is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from ...errors import InputError, SettingsError, nearest
from ...io.files import write_json, write_tensors
from ...io.reading import read_tensors
from ...plugins import plugins
from ..classes import checked_count
from ..images import ImageSet, checked_classes
from .copies import copied
from .fresh import drawing, reset
from .head import find_head
from .modes import evaluating as evaluating  # noqa: PLC0414  (its former home)
from .normalisation import PerChannel, per_channel, refuse_other_scale
from .outputs import Form, as_logits, main_rows
from .weights import build_by_name, load_by_name, read_facts, unwrap


class Classifier(nn.Module):
    """An image classifier for inputs ``[B, C, H, W]``, float in [0, 1].

    :param module: maps normalised images to logits ``[B, num_classes]``, or to one logit where there are two classes;
        of several outputs see :mod:`~elixir_plugin.core.classifier.outputs`.
    :param mean, std: per-channel normalisation of pixels in [0, 1], applied inside; one value serves all channels.
        Numbers, sequences, arrays and tensors will do.
    :param architecture: name under which :func:`build_module` can build ``module`` again.
    :param input_size: edge length to resize to (bilinear) before the module, for networks with a fixed input.
    :param classes: ``[num_classes]`` names of the classes in the order of the logits, where they are known.
    :param outputs: what the module returns: ``"logits"``, ``"probabilities"`` (it ends with a softmax) or
        ``"sigmoids"``; a :class:`Classifier` always returns logits.
    :ivar notes: how the module is read, where a reader of results should know.
    :raises InputError: for a mean or standard deviation that pixels in [0, 1] cannot have, numbers that are not one per
        channel, or names that are not one per class.

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
        mean: PerChannel = (0.0,),
        std: PerChannel = (1.0,),
        channels: int = 3,
        architecture: str | None = None,
        input_size: int | None = None,
        classes: Sequence[str] | None = None,
        outputs: Form = "logits",
    ) -> None:
        super().__init__()
        mean, std = per_channel(mean, channels, where="mean"), per_channel(std, channels, where="std")
        refuse_other_scale(mean, std)
        self.module = unwrap(module)
        self.num_classes = checked_count(num_classes)
        self.channels = channels
        self.architecture = architecture
        self.input_size = input_size
        self.classes = checked_classes(classes, num_classes)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1), persistent=False)
        self.outputs = outputs
        self.notes: tuple[str, ...] = ()
        self._head: str | None = None

    @classmethod
    def build(cls, architecture: str, num_classes: int, *, channels: int = 3, seed: int = 0, **options: Any) -> Self:
        """Make a classifier of a known architecture with fresh weights drawn under *seed*."""
        with drawing(seed):
            module = build_module(architecture, num_classes, channels)
        return cls(module, num_classes, channels=channels, architecture=architecture, **options)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        """Resize if need be, normalise, and return logits ``[B, num_classes]``; see :meth:`logits`.

        :raises InputError: when the module returns anything else than one row of logits per image.
        """
        return as_logits(self.rows(images), self.outputs, self.num_classes)

    def rows(self, images: Tensor) -> Tensor:
        """Return the main output of the module as it is, ``[B, W]``; see :mod:`.outputs`."""
        return main_rows(self.raw(images), len(images), self.num_classes, type(self.module).__name__)

    def raw(self, images: Tensor) -> Any:
        """Return whatever the module returns for images ``[B, C, H, W]`` in [0, 1]."""
        size = self.input_size
        if size is not None and images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return self.module(((images - self.mean) / self.std).to(self._dtype))

    @property
    def _dtype(self) -> torch.dtype:
        """What the module computes in."""
        return next((each.dtype for each in self.module.parameters() if each.is_floating_point()), self.mean.dtype)

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
            self._head = find_head(self.module, lambda: self.rows(images[:2]))
        return self._head

    def clone(self) -> Self:
        """Return an independent copy.

        :raises InputError: when the module cannot be copied.
        """
        return copied(self)

    def fresh(self, seed: int) -> Self:
        """Return the same architecture on the same device with new weights drawn under *seed*, in training mode.

        :raises InputError: when the module has weights that nothing can draw again.
        """
        new = self.clone().cpu()  # drawn there, so that weights do not depend on the device
        with drawing(seed):
            if self.architecture is not None:
                new.module = build_module(self.architecture, self.num_classes, self.channels)
            else:
                reset(new.module)
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
        if self.outputs != "logits":
            facts.append(self.outputs)
        digest = hashlib.sha256(repr(facts).encode())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(_content(value))
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
        if self.outputs != "logits":
            facts["outputs"] = self.outputs
        write_tensors(folder / "model.safetensors", self.module.state_dict())
        write_json(folder / "model.json", facts)

    @classmethod
    def load(cls, folder: str | Path, module: nn.Module | None = None, *, finite: bool = True) -> Self:
        """Read a classifier back; *module* is needed when it was saved without an architecture name.

        :param finite: whether weights that are not finite are refused; a run's own results are read as they are.

        :raises InputError: when a file is missing, damaged, or does not fit the other one.
        """
        folder = Path(folder)
        facts = read_facts(folder / "model.json")
        if module is None:
            if facts.architecture is None:
                raise InputError(
                    "model saved without architecture",
                    where=folder,
                    allowed="a folder whose model.json names an architecture, or the module to load into",
                    hint="name what builds the module, e.g. {option:architecture=nets.py:make_net}, or pass it: "
                    "Classifier.load(folder, module)",
                )
            make = partial(build_module, facts.architecture, facts.num_classes, facts.channels)
            module = build_by_name(make, read_tensors(folder / "model.safetensors"), where=str(folder), finite=finite)
        else:
            load_by_name(module, read_tensors(folder / "model.safetensors"), where=str(folder), finite=finite)
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


def _content(value: Any) -> bytes:
    """Return the bytes of an entry of a state dict, of any type; packed weights of quantised layers are no tensors."""
    if not isinstance(value, Tensor):
        return repr(value).encode()
    plain = value.detach().cpu().dequantize() if value.is_quantized else value.detach().cpu()
    return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
