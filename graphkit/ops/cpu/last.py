"""Distinct ids in one pass, with an open hash table sized by the number of ids."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphkit.ops.cpu.parallel import array, kernel


@kernel
def _compact(ids, table, place, nodes, inverse):  # pragma: no cover - compiled
    mask = len(table) - 1
    count = 0
    for i in range(len(ids)):
        v = ids[i]
        slot = (np.uint64(v) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & np.uint64(mask)
        while table[slot] != v:
            if table[slot] < 0:
                table[slot] = v
                place[slot] = count
                nodes[count] = v
                count += 1
                break
            slot = (slot + np.uint64(1)) & np.uint64(mask)
        inverse[i] = place[slot]
    return count


def compact(n_id: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    ids = array(n_id.long()).reshape(-1)
    size = 1 << max(2 * len(ids) - 1, 1).bit_length()
    table, place = np.full(size, -1, np.int64), np.empty(size, np.int64)
    nodes, inverse = np.empty(min(len(ids), num_nodes), np.int64), np.empty(len(ids), np.int64)
    count = _compact(ids, table, place, nodes, inverse)
    return torch.from_numpy(nodes[:count]), torch.from_numpy(inverse).view(n_id.shape)
