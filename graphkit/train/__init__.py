"""Training: tasks, the trainer, and procedures that change one step of it."""

from graphkit.train.experiment import Experiment
from graphkit.train.tasks import LinkPredictionTask, NodeClassificationTask, Task
from graphkit.train.trainer import FitResult, Trainer, make_fabric

__all__ = [
    "Experiment",
    "FitResult",
    "LinkPredictionTask",
    "NodeClassificationTask",
    "Task",
    "Trainer",
    "make_fabric",
]
