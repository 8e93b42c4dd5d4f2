"""Images inside pickles: what Pillow keeps of them, turned into pixels only when these are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .image_files import refuse_pixels, too_deep

_BYTES = {"L": 1, "P": 1, "LA": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3, "RGBA": 4, "RGBX": 4, "CMYK": 4}
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_WITH_PALETTE = ("L", "LA", "P", "PA")
_PALETTE = 4 * 256  # values of the largest palette


class PickledImage:
    """Stand-in for ``PIL.Image.Image`` inside pickles.

    Pillow itself makes an image of any size that a pickle names before it looks at the pixels, and as many of them as
    it likes from the same pixels. This takes no memory but that of the file until :meth:`pixels`.
    """

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self, shape: tuple[int, int, int], where: object) -> NDArray[np.uint8]:
        """Return the pixels in RGB, uint8 ``[H, W, 3]``.

        :param shape: ``(H, W, 3)`` that the image must have.
        :raises InputError: when it is no image, one of another size, or one of more than 8 bits per value.
        """
        mode, (width, height), palette, data = self._checked(where)
        if (height, width, 3) != tuple(shape):
            raise InputError("image of another size", where=where, found=(height, width, 3), allowed=shape)
        refuse_pixels(width, height, where)
        try:
            image = Image.frombytes(mode, (width, height), data)
            if palette and mode in _WITH_PALETTE:
                image.putpalette(palette)
            return np.asarray(image.convert("RGB"))
        except Exception as error:  # from inside Pillow
            raise InputError("image cannot be read", where=where, found=f"{type(error).__name__}: {error}") from None

    def _checked(self, where: object) -> tuple[str, tuple[int, int], Any, bytes]:
        state = getattr(self, "state", None)
        if not isinstance(state, list | tuple) or len(state) < 5:
            raise _broken(where, type(state).__name__)
        _, mode, size, palette, data = state[:5]
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(type(edge) is int for edge in size):
            raise _broken(where, f"a size of {type(size).__name__}")
        width, height = size
        if (
            min(size) < 1
            or max(size) >= 1 << 31
            or not isinstance(mode, str)
            or not isinstance(data, bytes | bytearray)
        ):
            raise _broken(where, f"{width} × {height} pixels of {type(mode).__name__}, in {type(data).__name__}")
        if mode in _DEEP:
            raise too_deep(mode, where)
        row = (width + 7) // 8 if mode == "1" else width * _BYTES.get(mode, 0)
        if not row or len(data) != row * height:
            raise _broken(where, f"{len(data):,} bytes for {width} × {height} pixels of mode {mode[:10]!r}")
        if palette is not None and not _is_palette(palette):
            raise _broken(where, "a palette that is none")
        return mode, (width, height), palette, bytes(data)


# pickles know it by the name of what it stands for
PickledImage.__module__, PickledImage.__name__, PickledImage.__qualname__ = "PIL.Image", "Image", "Image"


def _is_palette(palette: Any) -> bool:
    if not isinstance(palette, list | bytes | bytearray) or len(palette) > _PALETTE:
        return False
    return all(type(value) is int and 0 <= value < 256 for value in palette)


def _broken(where: object, found: str) -> InputError:
    return InputError(
        "image cannot be read", where=where, found=found, allowed="an image as Pillow pickles it, with its pixels"
    )
