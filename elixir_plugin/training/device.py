"""What the device can do: bf16, memory that ran out, and convolutions over one pixel made cheap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..io.process import memory_ran_out

_OUT_OF_MEMORY: type[Exception] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


def out_of_memory(error: BaseException) -> bool:
    """Whether *error* says that memory ran out, on the device or on the CPU."""
    return isinstance(error, _OUT_OF_MEMORY) or memory_ran_out(error)


def has_bf16(device: torch.device) -> bool:
    """Whether *device* is a GPU that computes in bf16; NVIDIA's from before Ampere (8.0) only imitate it, slowly."""
    if device.type != "cuda":
        return False
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)


class CentreTaps(TorchFunctionMode):
    """While active, a k × k convolution with padding (k − 1)/2 over 1 × 1 maps uses the centre of its kernel alone.

    All other taps meet zeros, so that the answer is the same, and so are the gradients but for rounding: zero off the
    centre. A CPU is slow at the backward pass of such layers, and networks made for large images (torchvision's
    ResNets) end in several of them when they see 32 pixels.

    >>> layer = torch.nn.Conv2d(2, 3, 3, padding=1)
    >>> pixel = torch.rand(4, 2, 1, 1)
    >>> with CentreTaps():
    ...     found = layer(pixel)
    >>> torch.allclose(found, layer(pixel), atol=1e-6)
    True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _meets_one_pixel(*args):
            image, weight, bias, _stride, _padding, dilation, groups = args
            row, column = (size // 2 for size in weight.shape[-2:])
            centre = weight[:, :, row : row + 1, column : column + 1]
            return torch.conv2d(image, centre, bias, 1, 0, dilation, groups)
        return func(*args, **(kwargs or {}))


def _meets_one_pixel(
    image: torch.Tensor, weight: torch.Tensor, _bias: Any, _stride: Any, padding: Any, dilation: Any, _groups: Any
) -> bool:
    sides = tuple(weight.shape[-2:])
    middle = tuple((side - 1) // 2 for side in sides)
    return (
        image.shape[-2:] == (1, 1)
        and any(side > 1 for side in sides)
        and all(side % 2 for side in sides)
        and tuple(dilation) == (1, 1)
        and (padding == "same" or (not isinstance(padding, str) and tuple(padding) == middle))
    )
