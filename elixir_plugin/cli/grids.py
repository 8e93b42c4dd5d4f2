"""What ``elixir-plugin denoiser sample`` puts into its grid: purified images, or new ones from noise.

Everything slow is imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.denoisers.base import Denoiser
    from ..diffusion.plan import Plan
    from ..diffusion.schedule import NoiseLevel

FAMILIAR = (100, 4000)  # the noise level of ECLIPSE, in a cosine chain: 6.4/255


def level(text: str | None, sigma: float | None, where: str = "denoiser sample") -> NoiseLevel | None:
    """Read ``STEPS/OF`` or *sigma*; a bare index would mean another noise in every chain."""
    from ..diffusion.schedule import NoiseLevel

    if text is None:
        return None if sigma is None else NoiseLevel.build({"sigma": sigma}, where="--sigma")
    if sigma is not None:
        raise SettingsError("give one noise level", where=where, allowed="--level or --sigma")
    steps, slash, of = text.partition("/")
    if not slash:
        raise SettingsError("a noise level names its chain", where="--level", found=text, allowed="e.g. 100/4000")
    return NoiseLevel.build({"steps": steps, "of": of}, where="--level")


def _default_level(found: Denoiser) -> NoiseLevel:
    """Return ECLIPSE's level, or all that was trained where that is less."""
    from ..diffusion.schedule import NoiseLevel

    level = NoiseLevel(steps=FAMILIAR[0], of=FAMILIAR[1], schedule="cosine")
    if level.resolve(found.schedule) <= found.trained_steps:
        return level
    return NoiseLevel(steps=found.trained_steps, of=found.schedule.length)


def there_and_back(
    found: Denoiser, originals: Tensor, level: NoiseLevel | None, steps: int | None, seed: int
) -> tuple[Plan, Tensor, Tensor]:
    """Return the plan, the noised images as a person may see them, and the purified ones; on the CPU."""
    from ..diffusion.fit.looks import noised_and_purified

    return noised_and_purified(found, originals, level or _default_level(found), steps, seed)


def from_noise(found: Denoiser, image_size: int | None, count: int, steps: int | None, seed: int) -> Tensor:
    """Walk the whole chain back from noise; gray images take the place of an image, of which nothing is left there."""
    import torch

    from ..diffusion.plan import Purification, plan
    from ..diffusion.purify import purify_batch
    from ..diffusion.schedule import NoiseLevel

    length = found.schedule.length
    if found.trained_steps < length:
        raise SettingsError(
            "this denoiser cannot make images from noise",
            where="--from-noise",
            found=f"trained on t* ≤ {found.trained_steps} of {length}: it never saw an image drowned in noise",
            hint="see what it does to given images: --images DIR",
        )
    size = image_size or found.image_size
    if size is None:
        raise SettingsError("how large?", where="--from-noise", hint="say which edge length, e.g. --image-size 32")
    settings = Purification(level=NoiseLevel(steps=length, of=length), steps=steps)
    gray = torch.full((count, found.channels, size, size), 0.5)
    resolved = plan(found, settings, (size, size, found.channels))
    return purify_batch(found, resolved, gray, torch.arange(count), seed).images.cpu()


def advice(found: Denoiser) -> str:
    """Say what there is to look at with this denoiser."""
    if found.trained_steps < found.schedule.length:
        return f"it was trained on t* ≤ {found.trained_steps} of {found.schedule.length}, so give images"
    return "it was trained on the whole chain, so both work"


def batch(images: Any) -> Tensor:
    """Return ``[N, H, W, C]`` as a batch in [0, 1] on the CPU."""
    import torch

    from ..core.classifier.classifier import to_batch

    return to_batch(images, torch.device("cpu")).contiguous()
