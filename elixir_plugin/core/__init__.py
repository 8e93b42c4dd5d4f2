"""The nouns of the project: settings, image sets, cases, outcomes, what is measured, panels, the context of a run.

Their public names are in ``elixir_plugin`` itself. May import ``errors``, ``plugins`` and ``io``. Nothing is imported
here: a module is loaded when it is used.
"""
