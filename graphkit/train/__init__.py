"""Training: tasks, the trainer, and procedures that change one step of it."""

from graphkit.train.experiment import Experiment
from graphkit.train.tasks import LinkPredictionTask, Task
from graphkit.train.trainer import FitResult, Trainer, make_fabric

__all__ = ["Experiment", "FitResult", "LinkPredictionTask", "Task", "Trainer", "make_fabric"]
