"""Everything that touches the disk, the machine or other processes.

``files`` is the one audited door to disk, ``pickles`` what a pickle may hold; images, locks, ranks, installed versions
and text made safe to show have a module each. May import ``errors`` alone. Nothing is imported here: a module is
loaded when it is used.
"""
