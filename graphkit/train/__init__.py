"""Training: tasks, the trainer, and procedures that change one step of it."""

from graphkit.train.augment import (
    AugmentedClassifier,
    AugmentedNetwork,
    AugmentedView,
    ConsistencyTask,
    LocalAugmentation,
    LocalAugmentationTask,
    NeighborFeatureTask,
    PredictionUncertainty,
)
from graphkit.train.contrastive import COSTA, GCA, GRACE, ContrastiveTask, POTLoss, ProGCL, info_nce
from graphkit.train.distill import (
    GraphTokenizerTask,
    NodeDistillationTask,
    distillation_kl,
    export_student,
    soft_code_kl,
)
from graphkit.train.distill.consistency import consistency_loss, sharpen
from graphkit.train.experiment import Experiment
from graphkit.train.linear_probe import ProbeResult, linear_probe
from graphkit.train.schedule import CosineSchedule
from graphkit.train.stable import STABLE, StableContrastTask
from graphkit.train.tasks import (
    CompositeNodeTask,
    CompositeTokenTask,
    ForecastingTask,
    GraphClassificationTask,
    LinkPredictionTask,
    NextTokenTask,
    NodeClassificationTask,
    PointingTask,
    RegressionTask,
    RestorationTask,
    Task,
    TemporalLinkPredictionTask,
    TemporalNodeClassificationTask,
    TemporalNodePropertyTask,
    TokenClassificationTask,
    psnr,
    restoration_loss,
)
from graphkit.train.temporal_evaluation import TemporalLinkEvaluator
from graphkit.train.trainer import FitResult, Trainer, make_fabric

__all__ = [
    "COSTA",
    "GCA",
    "GRACE",
    "STABLE",
    "AugmentedClassifier",
    "AugmentedNetwork",
    "AugmentedView",
    "CompositeNodeTask",
    "CompositeTokenTask",
    "ConsistencyTask",
    "ContrastiveTask",
    "CosineSchedule",
    "Experiment",
    "FitResult",
    "ForecastingTask",
    "GraphClassificationTask",
    "GraphTokenizerTask",
    "LinkPredictionTask",
    "LocalAugmentation",
    "LocalAugmentationTask",
    "NeighborFeatureTask",
    "NextTokenTask",
    "NodeClassificationTask",
    "NodeDistillationTask",
    "POTLoss",
    "PointingTask",
    "PredictionUncertainty",
    "ProGCL",
    "ProbeResult",
    "RegressionTask",
    "RestorationTask",
    "StableContrastTask",
    "Task",
    "TemporalLinkEvaluator",
    "TemporalLinkPredictionTask",
    "TemporalNodeClassificationTask",
    "TemporalNodePropertyTask",
    "TokenClassificationTask",
    "Trainer",
    "consistency_loss",
    "distillation_kl",
    "export_student",
    "info_nce",
    "linear_probe",
    "make_fabric",
    "psnr",
    "restoration_loss",
    "sharpen",
    "soft_code_kl",
]
