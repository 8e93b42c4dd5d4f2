"""The resumable store for images that are made in chunks, shared by all ranks of a run.

May import ``io`` and ``core``.
"""

from .chunks import ChunkStore as ChunkStore
