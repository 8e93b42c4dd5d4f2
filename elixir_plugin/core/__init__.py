"""The nouns of the project: settings, image sets, cases, outcomes, classifiers, panels, and the context of a run.

May import ``errors``, ``plugins`` and ``io``. Nothing is imported here: a module is loaded when it is used.
"""
