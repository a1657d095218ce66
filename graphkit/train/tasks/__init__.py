"""Kinds of problems: each owns its split, loss and metrics."""

from graphkit.train.tasks.forecasting import ForecastingTask
from graphkit.train.tasks.graph_classification import GraphClassificationTask
from graphkit.train.tasks.link_prediction import LinkPredictionTask
from graphkit.train.tasks.node_classification import NodeClassificationTask
from graphkit.train.tasks.task import Task
from graphkit.train.tasks.temporal_link_prediction import TemporalLinkPredictionTask
from graphkit.train.tasks.temporal_node_classification import TemporalNodeClassificationTask
from graphkit.train.tasks.temporal_node_property import TemporalNodePropertyTask

__all__ = [
    "ForecastingTask",
    "GraphClassificationTask",
    "LinkPredictionTask",
    "NodeClassificationTask",
    "Task",
    "TemporalLinkPredictionTask",
    "TemporalNodeClassificationTask",
    "TemporalNodePropertyTask",
]
