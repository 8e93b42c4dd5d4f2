"""BackdoorBox: its defenses as classes."""

from .adapter import __dir__ as __dir__
from .adapter import __getattr__ as __getattr__
from .adapter import backdoorbox_class as backdoorbox_class
from .adapter import install as install
from .adapter import read_case as read_case
from .stand_ins import stand_ins as stand_ins
