"""Datasets that are one npz file a graph."""

from __future__ import annotations

import torch_geometric.data
from torch_geometric.data import InMemoryDataset


class NpzDataset(InMemoryDataset):
    """Reads ``<root>/<name>.npz`` once, by the ``process`` of a subclass, and downloads it from ``url`` if absent.

    Args:
        root: folder of the files.
        name: name of the graph.
    """

    url: str

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        super().__init__(root)
        self.load(self.processed_paths[0])

    @property
    def raw_dir(self) -> str:
        return str(self.root)

    @property
    def raw_file_names(self) -> str:
        return f"{self.name}.npz"

    @property
    def processed_file_names(self) -> str:
        return "data.pt"

    def download(self) -> None:
        torch_geometric.data.download_url(f"{self.url}/{self.name}.npz", self.raw_dir)
