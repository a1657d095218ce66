"""The graphs on which distillation from graph networks to MLPs is compared."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, LargestConnectedComponents, RemoveSelfLoops, ToUndirected

from graphkit.datasets.npz import NpzDataset


class CPF(NpzDataset):
    """Cora, CiteSeer, PubMed and Amazon Photo as `"Extract the Knowledge of Graph Neural Networks and Go Beyond it"
    <https://arxiv.org/abs/2103.02885>`_ and the papers that compare with it use them.

    The largest connected component of the undirected graph, without edge weights and self-loops. Features are as
    stored, not scaled. The files of Cora and CiteSeer are not Planetoid's: nodes have another order.

    Args:
        root: folder of ``<name>.npz``.
        name: ``"cora"``, ``"citeseer"``, ``"pubmed"`` or ``"a-photo"``.

    Shapes:
        - ``x`` ``[N, F]`` float32, ``edge_index`` ``[2, E]`` both directions, ``y`` ``[N]`` int64
    """

    url = "https://github.com/YangLing0818/VQGraph/raw/main/data"

    def process(self) -> None:
        # Only arrays of numbers are read; tables of names in the same file may be pickles.
        with np.load(self.raw_paths[0], allow_pickle=False) as raw:
            adjacency, features = (_matrix(raw, name) for name in ("adj", "attr"))
            y = torch.from_numpy(raw["labels"].astype(np.int64))
        edge_index = torch.from_numpy(np.stack(adjacency.nonzero()).astype(np.int64))
        x = torch.from_numpy(features.toarray().astype(np.float32))
        standard = Compose([ToUndirected(), RemoveSelfLoops(), LargestConnectedComponents()])
        self.save([standard(Data(x=x, edge_index=edge_index, y=y))], self.processed_paths[0])


def _matrix(raw: np.lib.npyio.NpzFile, name: str) -> csr_matrix:
    parts = (raw[f"{name}_data"], raw[f"{name}_indices"], raw[f"{name}_indptr"])
    return csr_matrix(parts, shape=tuple(raw[f"{name}_shape"]))
