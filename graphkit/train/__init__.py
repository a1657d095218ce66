"""Training: tasks, the trainer, and procedures that change one step of it."""

from graphkit.train.experiment import Experiment
from graphkit.train.tasks import (
    LinkPredictionTask,
    NodeClassificationTask,
    Task,
    TemporalLinkPredictionTask,
    TemporalNodeClassificationTask,
    TemporalNodePropertyTask,
)
from graphkit.train.temporal_evaluation import TemporalLinkEvaluator
from graphkit.train.trainer import FitResult, Trainer, make_fabric

__all__ = [
    "Experiment",
    "FitResult",
    "LinkPredictionTask",
    "NodeClassificationTask",
    "Task",
    "TemporalLinkEvaluator",
    "TemporalLinkPredictionTask",
    "TemporalNodeClassificationTask",
    "TemporalNodePropertyTask",
    "Trainer",
    "make_fabric",
]
