"""The conformance suite: what every defense and every adapter must hold, built-in or from third parties.

May import the contracts (``defense``, ``adapter``), ``core`` and what lies below them.

.. code-block:: python

    from elixir_plugin.testing import check_defense
    def test_my_defense_conforms():
        check_defense(MyDefense, epochs=2)

    from elixir_plugin.testing import check_adapter
    def test_my_adapter_conforms():
        check_adapter(MyAdapter)
"""

from .defenses import ConformanceError as ConformanceError
from .defenses import check_adapter as check_adapter
from .defenses import check_defense as check_defense
from .defenses import check_settings as check_settings
from .defenses import tiny_case as tiny_case
from .sealing import leaks as leaks
