"""backdoor-toolbox and Fight-Poison-With-Poison: poisoned sets, cleansed sets, and the script placed in a checkout."""

from .adapter import BackdoorToolbox as BackdoorToolbox
