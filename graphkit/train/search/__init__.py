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

__all__ = [
    "LPGNASSearch",
    "LPGNASSupernet",
    "RandomCandidates",
    "RandomSearchTask",
    "SearchResult",
    "SearchedExperiment",
    "SizedNodeClassificationTask",
]
