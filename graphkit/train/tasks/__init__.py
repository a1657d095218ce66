"""Kinds of problems: each owns its split, loss and metrics."""

from graphkit.train.tasks.composite_node import CompositeNodeTask, CompositeTokenTask
from graphkit.train.tasks.forecasting import ForecastingTask
from graphkit.train.tasks.graph_classification import GraphClassificationTask
from graphkit.train.tasks.link_prediction import LinkPredictionTask
from graphkit.train.tasks.next_token import NextTokenTask
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.train.tasks.pointing import PointingTask
from graphkit.train.tasks.regression import RegressionTask
from graphkit.train.tasks.restoration import RestorationTask, psnr, restoration_loss
from graphkit.train.tasks.task import Task
from graphkit.train.tasks.temporal_link_prediction import TemporalLinkPredictionTask
from graphkit.train.tasks.temporal_node_classification import TemporalNodeClassificationTask
from graphkit.train.tasks.temporal_node_property import TemporalNodePropertyTask
from graphkit.train.tasks.token_classification import TokenClassificationTask

__all__ = [
    "CompositeNodeTask",
    "CompositeTokenTask",
    "ForecastingTask",
    "GraphClassificationTask",
    "LinkPredictionTask",
    "NextTokenTask",
    "NodeClassificationTask",
    "PointingTask",
    "RegressionTask",
    "RestorationTask",
    "Task",
    "TemporalLinkPredictionTask",
    "TemporalNodeClassificationTask",
    "TemporalNodePropertyTask",
    "TokenClassificationTask",
    "psnr",
    "restoration_loss",
]
