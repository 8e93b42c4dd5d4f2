"""Parameters as ART's defences have them, over the checked settings of a defense."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ...core.case import Case
from ...core.context import Context, resolve_device
from ...core.outcome import Outcome
from ...defense import Defense
from ...errors import SettingsError, nearest


class Configured:
    """Base of all behaviours: ``get_params``, ``set_params``, and the run.

    :cvar defense: set on the classes that are made.
    :cvar own: parameters that are not settings of the defense.
    """

    defense: ClassVar[type[Defense]]
    own: ClassVar[tuple[str, ...]]
    outcome: Outcome | None = None

    def get_params(self) -> dict[str, Any]:
        """Return every parameter and its value."""
        settings = self._defense.settings
        return {**self._own, **{name: getattr(settings, name) for name in type(settings).model_fields}}

    def set_params(self, **values: Any) -> None:
        """Change parameters; all of them, or none when one is refused.

        :raises SettingsError: for an unknown parameter, or a value out of range.
        """
        known = [*self.own, *self.defense.Settings.model_fields]
        for name in values:
            if name not in known:
                raise SettingsError(
                    "unknown parameter", where=type(self).__name__, found=name, allowed=", ".join(known),
                    hint=nearest(name, known),
                )  # fmt: skip
        own = self._own | {name: value for name, value in values.items() if name in self.own}
        given = self._given | {name: value for name, value in values.items() if name not in self.own}
        self._configure(own, given)

    def _configure(self, own: dict[str, Any], given: dict[str, Any]) -> None:
        defense = self.defense(given, preset=own["preset"])
        self._check_own(own)
        self._own, self._given, self._defense, self.outcome = own, given, defense, None

    def _check_own(self, own: dict[str, Any]) -> None:
        if own["device"] is not None:
            resolve_device(str(own["device"]))

    def _run(self, case: Case, device: Any = None) -> Outcome:
        """Run the defense; *device* is where the estimator lives, unless a parameter says otherwise."""
        chosen = self._own["device"] or device or "auto"
        self.outcome = self._defense.run(case, self._context(resolve_device(str(chosen))))
        return self.outcome

    def _context(self, device: torch.device) -> Context:
        chosen = device if self._own["device"] is None else resolve_device(str(self._own["device"]))
        own = self._own
        return Context(seed=own["seed"], device=chosen, quiet=not own["verbose"], any_model=own["any_model"])


COMMON = ("x_clean", "y_clean", "preset", "seed", "device", "any_model", "verbose")
