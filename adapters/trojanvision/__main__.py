"""``python -m elixir_plugin.adapters.trojanvision``: see :mod:`.launcher`."""

import sys

from .launcher import main

main(sys.argv[1:])
