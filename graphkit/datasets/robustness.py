"""Citation graphs and blogs under attack: the graphs of Nettack and the perturbed ones that Pro-GNN published.

`"Adversarial Attacks on Neural Networks for Graph Data" <https://arxiv.org/abs/1805.07984>`_ (Nettack) works on the
largest component of Cora, CiteSeer and PolBlogs; `"Graph Structure Learning for Robust Graph Neural Networks"
<https://arxiv.org/abs/2005.10203>`_ (Pro-GNN) published these and PubMed after Metattack (`"Adversarial Attacks on
Graph Neural Networks via Meta Learning" <https://arxiv.org/abs/1902.08412>`_) and Nettack, with one split and the nodes
that Nettack was aimed at. All lie in one flat folder, as DeepRobust downloads them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask

FOLDER = "robustness"
#: Undirected edges after each attack: Metattack by the share of changed edges, Nettack by the changed edges a
#: target, of which 0 is the clean graph with the targets as test nodes.
ATTACKED: dict[str, dict[str, dict[str, int]]] = {
    "Cora": {
        "meta": {"0.05": 5322, "0.10": 5567, "0.15": 5809, "0.20": 6040, "0.25": 6246},
        "nettack": {"0": 5069, "1": 5152, "2": 5225, "3": 5304, "4": 5375, "5": 5440},
    },
    "CiteSeer": {
        "meta": {"0.05": 3851, "0.10": 4032, "0.15": 4196, "0.20": 4375, "0.25": 4549},
        "nettack": {"0": 3668, "1": 3731, "2": 3794, "3": 3857, "4": 3916, "5": 3963},
    },
    "PolBlogs": {
        "meta": {"0.05": 17349, "0.10": 17813, "0.15": 18131, "0.20": 17794, "0.25": 17636},
        "nettack": {"0": 16714, "1": 17192, "2": 17652, "3": 18110, "4": 18554, "5": 18978},
    },
    "PubMed": {
        "meta": {"0.05": 46540, "0.10": 48756, "0.15": 50972, "0.20": 53188, "0.25": 55395},
        "nettack": {"0": 44324, "1": 44510, "2": 44696, "3": 44880, "4": 45062, "5": 45232},
    },
}


def read_robustness(root: Path, name: str, graph: str, attack: str | None = None, strength: str = "") -> Data:
    """A clean or attacked graph with its split as masks.

    Args:
        root: folder of the datasets.
        name: what error messages call it.
        graph: a key of ``ATTACKED``.
        attack: None for the clean graph, ``"meta"`` or ``"nettack"``.
        strength: share of changed edges (Metattack) or changed edges a target (Nettack).

    Returns:
        ``x`` ``[N, F]`` (None for the blogs), ``edge_index`` in both directions, ``y``, ``train_mask``, ``val_mask``
        and ``test_mask``; for Nettack the last one holds its targets.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged or does not fit the others.
    """
    folder, graph = root / FOLDER, graph.lower()
    arrays = _read(folder / f"{graph}.npz", name, _arrays)
    adjacency = scipy.sparse.csr_matrix(
        (arrays["adj_data"], arrays["adj_indices"], arrays["adj_indptr"]), arrays["adj_shape"]
    )
    adjacency = ((adjacency + adjacency.T) > 0).tocsr()
    _, component = scipy.sparse.csgraph.connected_components(adjacency)
    nodes = np.flatnonzero(component == np.bincount(component).argmax())
    num_nodes = len(nodes)
    nettack = attack == "nettack"
    if attack is None or strength == "0":
        adjacency = adjacency[nodes][:, nodes]
    else:
        shown = f"{strength}.0" if nettack else f"{float(strength):g}"
        file = f"{graph}_{attack}_adj_{shown}.npz"
        adjacency = _read(folder / file, name, scipy.sparse.load_npz).tocsr()
        if adjacency.shape != (num_nodes, num_nodes):
            raise ValueError(f"{folder / file} holds a graph of {adjacency.shape[0]} nodes, {graph}.npz {num_nodes}")
    x = None
    if "attr_data" in arrays:
        attributes = (arrays["attr_data"], arrays["attr_indices"], arrays["attr_indptr"])
        x = torch.from_numpy(scipy.sparse.csr_matrix(attributes, arrays["attr_shape"])[nodes].toarray()).float()
    # The targets of PubMed were drawn for another split than that of the other files.
    split = _read(folder / f"{graph}_{'nettacked_nodes' if nettack else 'prognn_splits'}.json", name, _json)
    parts = {
        "train_mask": "idx_train",
        "val_mask": "idx_val",
        "test_mask": "attacked_test_nodes" if nettack else "idx_test",
    }
    masks = {mask: index_to_mask(torch.tensor(split[part]), num_nodes) for mask, part in parts.items()}
    label = torch.from_numpy(arrays["labels"][nodes]).long()
    return Data(x=x, edge_index=_edges(adjacency), y=label, num_nodes=num_nodes, **masks)


def _edges(adjacency: scipy.sparse.csr_matrix) -> Tensor:
    """Both directions of every entry that is not zero, without the diagonal."""
    entries = adjacency.tocoo()
    row, col = (part[entries.data != 0].astype(np.int64) for part in (entries.row, entries.col))
    keep = row != col
    size = adjacency.shape[0]
    keys = np.unique(np.concatenate([row[keep] * size + col[keep], col[keep] * size + row[keep]]))
    return torch.from_numpy(np.stack([keys // size, keys % size]))


def _arrays(path: Path) -> Mapping[str, Any]:
    """The numeric arrays; tables of names, which are pickles, are not read."""
    wanted = {f"{kind}_{part}" for kind in ("adj", "attr") for part in ("data", "indices", "indptr", "shape")}
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files if key in wanted | {"labels"}}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read(path: Path, name: str, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name}: {path} not found. Put the files of github.com/danielzuegner/gnn-meta-attack and "
            f"github.com/ChandlerBang/Pro-GNN there, or name the folder above {FOLDER}/ with --root (root=...) or "
            "GRAPHKIT_ROOT"
        ) from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}; fetch the file again") from error
