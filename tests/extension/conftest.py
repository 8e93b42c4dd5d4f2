"""Lets the example's own tests run without installing it; ``test_extension.py`` installs it for real."""

import sys
from pathlib import Path

from elixir_plugin import testing

sys.path.insert(0, str(Path(__file__).parent))
collect_ignore = [] if hasattr(testing, "check_adapter") else ["tests/test_rules.py"]
