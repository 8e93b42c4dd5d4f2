"""The one evaluation: it alone opens the truth of a case. ACC, ASR, RA, DER, TPR, FPR, AUROC; retrain and measure.

May import ``defense``, ``training`` and what lies below them.
"""

from ..core.metrics import Evaluation as Evaluation
from ..core.metrics import ModelMetrics as ModelMetrics
from .metrics import evaluate as evaluate
from .metrics import model_metrics as model_metrics
