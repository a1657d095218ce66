"""Training with generated or randomly changed inputs: generators, views, and their agreement."""

from graphkit.train.augment.consistency_task import ConsistencyTask
from graphkit.train.augment.local_augmentation import AugmentedView, LocalAugmentation
from graphkit.train.augment.local_augmentation_task import AugmentedClassifier, AugmentedNetwork, LocalAugmentationTask
from graphkit.train.augment.neighbor_task import NeighborFeatureTask
from graphkit.train.augment.prediction_uncertainty import PredictionUncertainty

__all__ = [
    "AugmentedClassifier",
    "AugmentedNetwork",
    "AugmentedView",
    "ConsistencyTask",
    "LocalAugmentation",
    "LocalAugmentationTask",
    "NeighborFeatureTask",
    "PredictionUncertainty",
]
