"""DataElixir: turn a poisoned training set back into a benign one by purification and relabelling."""

from .defense import DataElixir as DataElixir
from .settings import DataElixirSettings as DataElixirSettings
