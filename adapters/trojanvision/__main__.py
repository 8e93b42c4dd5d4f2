"""``python -m elixir_plugin.adapters.trojanvision``: see :mod:`.adapter`."""

import sys

from .adapter import main

main(sys.argv[1:])
