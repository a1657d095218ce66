"""Search: for architectures, bit widths and hyperparameters."""

from graphkit.train.search.lpgnas import (
    LPGNASSearch,
    LPGNASSupernet,
    RandomCandidates,
    RandomSearchTask,
    SearchedExperiment,
    SearchResult,
    SizedNodeClassificationTask,
)
from graphkit.train.search.skan import SelectionTask, SKANSchedule

__all__ = [
    "LPGNASSearch",
    "LPGNASSupernet",
    "RandomCandidates",
    "RandomSearchTask",
    "SKANSchedule",
    "SearchResult",
    "SearchedExperiment",
    "SelectionTask",
    "SizedNodeClassificationTask",
]
