"""What a student should match of its teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphkit.utils.checks import check_choice, check_range


def distillation_kl(
    student_logits: Tensor, teacher: Tensor, temperature: float = 1.0, *, teacher_is: str = "logits"
) -> Tensor:
    r"""Divergence of a student's class distribution from its teacher's at a temperature, as in `"Distilling the
    Knowledge in a Neural Network" <https://arxiv.org/abs/1503.02531>`_.

    .. math::
        \tau^2 \, \text{mean}_i \, \text{KL}\big( \text{softmax}(t_i / \tau) \,\|\, \text{softmax}(s_i / \tau) \big)

    The factor keeps the size of the gradient when :math:`\tau` changes. It is zero exactly where both distributions are
    equal, whatever constant is added to a row.

    Args:
        student_logits: ``[..., C]`` scores before the softmax.
        teacher: of the same shape; carries no gradient.
        temperature: :math:`\tau > 0`.
        teacher_is: ``"logits"`` (log-probabilities are logits, too) or ``"probabilities"``. A distribution handed over
            as logits would teach its softmax, which is nearly uniform: say which it is.

    Raises:
        ValueError: shapes that differ, a temperature of zero, or probabilities that are none.

    Example:
        >>> distillation_kl(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, -1.0]]))
        tensor(0.2662)
    """
    check_choice(teacher_is, "teacher_is", ("logits", "probabilities"))
    check_range(temperature, "temperature", 0, low_open=True)
    if student_logits.shape != teacher.shape or teacher.dim() == 0:
        raise ValueError(
            f"teacher must have the shape of student_logits, {list(student_logits.shape)} (got {list(teacher.shape)})"
        )
    teacher = teacher.detach()
    if teacher_is == "probabilities":
        teacher = _checked_probabilities(teacher).clamp(min=torch.finfo(teacher.dtype).tiny).log()
    goal = (teacher / temperature).log_softmax(-1)
    got = (student_logits / temperature).log_softmax(-1)
    rows = max(goal.numel() // goal.size(-1), 1)
    return temperature**2 * F.kl_div(got, goal, reduction="sum", log_target=True) / rows


def soft_code_kl(teacher_scores: Tensor, student_scores: Tensor, tau: float = 1.0, *, released: bool = False) -> Tensor:
    r"""Divergence of a student's soft assignment to the codes from its teacher's, as in `"VQGraph: Rethinking Graph
    Representation Space for Bridging GNNs and MLPs" <https://arxiv.org/abs/2308.02117>`_: :func:`distillation_kl` over
    the codebook.

    Args:
        teacher_scores, student_scores: ``[N, K]`` similarities to each code.
        tau: temperature.
        released: compute what the released code does, which takes the teacher's probabilities for log-probabilities;
            its minimum is at their softmax, an almost uniform assignment. To compare with it, not to train.

    Example:
        >>> teacher, student = torch.tensor([[1.0, 0.0, -1.0]]), torch.zeros(1, 3)
        >>> soft_code_kl(teacher, student), soft_code_kl(teacher, student, released=True)
        (tensor(0.2662), tensor(6.4471))
    """
    if not released:
        return distillation_kl(student_scores, teacher_scores, tau)
    check_range(tau, "tau", 0, low_open=True)
    goal = (teacher_scores.detach() / tau).softmax(-1)
    got = (student_scores / tau).log_softmax(-1)
    return tau**2 * F.kl_div(got, goal, reduction="batchmean", log_target=True)


def _checked_probabilities(p: Tensor) -> Tensor:
    good = (p >= 0).all() & ((p.sum(-1) - 1).abs() < 1e-3).all()
    if p.is_cuda:  # asserted there, so that a step need not wait
        torch._assert_async(good, "teacher holds rows that are no probabilities")
    elif not bool(good):
        raise ValueError("teacher holds rows that are no probabilities: none negative, a sum of one (got others)")
    return p
