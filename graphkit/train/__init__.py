"""Training: tasks, the trainer, and procedures that change one step of it."""

from graphkit.train.tasks import LinkPredictionTask, Task
from graphkit.train.trainer import FitResult, Trainer, make_fabric

__all__ = ["FitResult", "LinkPredictionTask", "Task", "Trainer", "make_fabric"]
