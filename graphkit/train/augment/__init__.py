"""Training with generated or randomly changed inputs: generators, views, and their agreement."""

from graphkit.train.augment.consistency_task import ConsistencyTask
from graphkit.train.augment.local_augmentation import LocalAugmentation
from graphkit.train.augment.local_augmentation_task import AugmentedNetwork, LocalAugmentationTask
from graphkit.train.augment.neighbor_task import NeighborFeatureTask
from graphkit.train.augment.prediction_uncertainty import PredictionUncertainty

__all__ = [
    "AugmentedNetwork",
    "ConsistencyTask",
    "LocalAugmentation",
    "LocalAugmentationTask",
    "NeighborFeatureTask",
    "PredictionUncertainty",
]
