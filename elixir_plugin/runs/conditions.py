"""What a number was measured on, in terms that two numbers can be compared by."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import Self

from ..core.settings import Settings

Count = Annotated[int, Field(ge=0)]


class Conditions(Settings):
    """What a number was measured on; what is None or empty is not known.

    >>> Conditions(data="CIFAR-10", images=50_000, rate=0.1).text()
    'CIFAR-10, 50,000 images, poison rate 10 %'
    """

    data: str | None = Field(None, description="the data set, by its usual name")
    images: Count | None = Field(None, description="suspect training images")
    model: str | None = Field(None, description="the network")
    rate: float | None = Field(None, ge=0, le=1, description="share of the suspect images that is poisoned")
    reserved: Count | None = Field(None, description="reserved clean images")
    words: str = Field("", description="what else matters, in words")

    def with_other(self, other: Conditions) -> Self:
        """Return these conditions with what *other* states in place of their own; words of both stay."""
        known = {name: value for name, value in other if value is not None and name != "words"}
        words = "; ".join(each for each in (self.words, other.words) if each)
        return self.model_copy(update={**known, "words": words})

    def differences(self, other: Conditions) -> list[str]:
        """List what differs, own values first; what *other* alone states is told as such, words always are."""
        found = []
        if other.data is not None and self.data != other.data:
            found.append(f"{self.data or 'data not recorded'}, not {other.data}")
        if other.images is not None and self.images != other.images:
            found.append(_sizes(self.images, other.images))
        if other.model is not None and self.model != other.model:
            found.append(f"{self.model or 'network not recorded'}, not {other.model}")
        if other.rate is not None and self.rate != other.rate:
            own = "not recorded" if self.rate is None else _percent(self.rate)
            found.append(f"poison rate: {own}, not {_percent(other.rate)}")
        if other.reserved is not None and self.reserved != other.reserved:
            own = "not recorded" if self.reserved is None else f"{self.reserved:,}"
            found.append(f"reserved clean images: {own}, not {other.reserved:,}")
        return [*found, *(f"there: {other.words}" for _ in range(bool(other.words)))]

    def text(self) -> str:
        """Return the conditions in words."""
        parts = [self.data] if self.data else []
        parts += [f"{self.images:,} images"] if self.images is not None else []
        parts += [self.model] if self.model else []
        parts += [f"poison rate {_percent(self.rate)}"] if self.rate is not None else []
        parts += [f"{self.reserved:,} reserved"] if self.reserved is not None else []
        return ", ".join([*parts, *([self.words] if self.words else [])])


def _sizes(own: int | None, other: int) -> str:
    if own is None:
        return f"images: not recorded, not {other:,}"
    return f"{own:,} {'of' if own < other else 'images, not'} {other:,}{' images' if own < other else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
