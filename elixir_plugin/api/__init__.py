"""For hosts that hold data in memory: defenses as functions, torch datasets and arrays as cases, foreign registries.

May import ``adapter``, ``defense``, ``training`` and what lies below them.
"""

from .convert import TensorImages as TensorImages
from .functions import defend as defend
from .functions import detect as detect
from .functions import make_case as make_case
from .functions import purify as purify
from .functions import repair as repair
from .registry import register_into as register_into
