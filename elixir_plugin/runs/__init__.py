"""One run, and many: run folders that resume, the data of the report, exports, result cards, files in checkouts.

Start at :func:`.run.run_defense` and :class:`.spec.RunSpec`. May import ``report``, ``evaluation``, the contracts and
what lies below them; no defense and no adapter by name. Nothing is imported here: a module is loaded when it is used.
"""
