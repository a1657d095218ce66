"""What the codes of a codebook stand for, measured against labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.utils.checks import check_int


class CodeReport(NamedTuple):
    """How often each code goes with each label.

    Args:
        joint: ``[groups, num_codes, num_labels]`` counts.
        labels: ``[num_labels]`` how many vectors have each label.
    """

    joint: Tensor
    labels: Tensor

    @property
    def uses(self) -> Tensor:
        """``[groups, num_codes]`` how often each code is used."""
        return self.joint.sum(-1)

    @property
    def label(self) -> Tensor:
        """``[groups, num_codes]`` the label that each code goes with most."""
        return self.joint.argmax(-1)

    @property
    def precision(self) -> Tensor:
        """``[groups, num_codes]`` share of a code's uses that are of its label; 0 for a code that is not used."""
        return self.joint.amax(-1) / self.uses.clamp(min=1)

    @property
    def recall(self) -> Tensor:
        """``[groups, num_codes]`` share of the vectors of a code's label that have the code."""
        return self.joint.amax(-1) / self.labels.clamp(min=1)[self.label]

    @property
    def purity(self) -> Tensor:
        """``[groups]`` mean precision, each code counting as often as it is used."""
        return self.joint.amax(-1).sum(-1) / self.uses.sum(-1).clamp(min=1)

    @property
    def active(self) -> Tensor:
        """``[groups]`` number of codes that are used."""
        return (self.uses > 0).sum(-1)

    def codes_of(self, k: int = 1) -> Tensor:
        """``[num_labels, groups, k]`` codes that vectors of each label have most often, most frequent first: what to
        force to make vectors look like that label's."""
        return self.joint.topk(check_int(k, "k", 1, self.joint.size(1)), dim=1).indices.permute(2, 0, 1)


def code_report(ids: Tensor, labels: Tensor, num_codes: int | None = None, num_labels: int | None = None) -> CodeReport:
    """Count which codes fire for which labels: states of a machine, classes of nodes. O(N groups k).

    Args:
        ids: ``[N, groups, k]`` codes, such as :attr:`~graphkit.nn.CodebookLayer.last_ids`.
        labels: ``[N]`` label of each vector; negative ones do not count.
        num_codes, num_labels: how many there are; one more than the largest if None.

    Raises:
        ValueError: shapes that do not fit.
        IndexError: a code or label out of range.

    Example:
        >>> report = code_report(torch.tensor([[[0]], [[0]], [[2]]]), torch.tensor([1, 1, 0]))
        >>> report.precision, report.label
        (tensor([[1., 0., 1.]]), tensor([[1, 0, 0]]))
    """
    if ids.dim() != 3 or labels.shape != ids.shape[:1]:
        raise ValueError(f"ids must be [N, groups, k] and labels [N] (got {list(ids.shape)} and {list(labels.shape)})")
    known = labels >= 0
    ids, labels = ids[known], labels[known]
    most_code, most_label = (int(v.max()) if v.numel() else -1 for v in (ids, labels))
    codes = most_code + 1 if num_codes is None else num_codes
    classes = most_label + 1 if num_labels is None else num_labels
    if most_code >= codes or most_label >= classes or (ids.numel() and int(ids.min()) < 0):
        raise IndexError(f"ids must be in [0, {codes}) and labels below {classes} (got {most_code} and {most_label})")
    groups = ids.size(1)
    place = (torch.arange(groups, device=ids.device)[:, None] * codes + ids) * classes + labels[:, None, None]
    joint = torch.bincount(place.reshape(-1), minlength=groups * codes * classes).view(groups, codes, classes)
    return CodeReport(joint, torch.bincount(labels, minlength=classes))
