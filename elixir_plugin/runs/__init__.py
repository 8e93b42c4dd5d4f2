"""One run, and many: run folders that resume, the data of the report, exports, result cards, checkouts, the demo.

May import ``report``, ``evaluation``, the contracts and what lies below them; no defense and no adapter by name.
"""
