"""The one training loop, its checkpoints, distillation, and ready-made ways to train a new classifier.

May import ``core`` and what lies below it.
"""

from ..core.augmentation import Augmentation as Augmentation
from ..core.augmentation import augment as augment
from .batches import Batch as Batch
from .batches import BatchSource as BatchSource
from .batches import Samples as Samples
from .batches import SampleSource as SampleSource
from .batches import ShuffledBatches as ShuffledBatches
from .checkpoint import Checkpoint as Checkpoint
from .loop import Losses as Losses
from .loop import Objective as Objective
from .loop import Recipe as Recipe
from .loop import cross_entropy as cross_entropy
from .loop import make_optimizer as make_optimizer
from .loop import make_schedule as make_schedule
from .loop import train as train
