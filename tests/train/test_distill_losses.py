"""Divergences of distillation: golden values, closed forms, minimisers, and what the released form does instead."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphkit.train import distillation_kl, soft_code_kl

DOUBLE = torch.float64
TEACHER = torch.tensor([[1.0, 0.0, -1.0]], dtype=DOUBLE)
UNIFORM = torch.zeros(1, 3, dtype=DOUBLE)


def draw(seed: int, rows: int = 4, classes: int = 5) -> Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def test_golden() -> None:
    assert float(soft_code_kl(TEACHER, UNIFORM, 1.0)) == pytest.approx(0.266217, abs=1e-6)
    assert float(soft_code_kl(TEACHER, UNIFORM, 4.0)) == pytest.approx(0.328202, abs=1e-6)
    assert float(soft_code_kl(TEACHER, UNIFORM, 1.0, released=True)) == pytest.approx(6.447060, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 10))
def test_it_is_the_divergence_by_its_definition(seed: int, temperature: float) -> None:
    teacher, student = draw(seed), draw(seed + 1)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    want = temperature**2 * (p * (p / q).log()).sum(1).mean()
    for got in (
        distillation_kl(student, teacher, temperature),
        distillation_kl(student, teacher.log_softmax(1), temperature),
        distillation_kl(student, teacher.softmax(1), temperature, teacher_is="probabilities"),
        soft_code_kl(teacher, student, temperature),
    ):
        torch.testing.assert_close(got, want)
    assert float(want) >= 0


@pytest.mark.parametrize("tau", [0.1, 1.0, 4.0])
def test_zero_with_zero_gradient_only_up_to_a_constant_a_row(tau: float) -> None:
    teacher = draw(0)
    shifted = (teacher + torch.tensor([[5.0], [-2.0], [0.0], [100.0]])).requires_grad_()
    loss = soft_code_kl(teacher, shifted, tau)
    loss.backward()
    assert abs(float(loss)) < 1e-10
    assert float(shifted.grad.abs().max()) < 1e-10
    other = teacher.clone()
    other[2, 1] += 0.5
    other.requires_grad_()
    loss = soft_code_kl(teacher, other, tau)
    loss.backward()
    assert float(loss) > 1e-6
    assert float(other.grad.abs().max()) > 1e-6


@pytest.mark.parametrize("released", [False, True])
def test_the_minimiser(released: bool) -> None:
    """Ours ends at the teacher's distribution; the released form at the softmax of it, which is nearly uniform."""
    student = torch.zeros(1, 3, dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.LBFGS([student], max_iter=200, tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = soft_code_kl(TEACHER, student, 1.0, released=released)
        loss.backward()
        return loss

    optimizer.step(closure)
    p = TEACHER.softmax(1)
    torch.testing.assert_close(student.detach().softmax(1), p.softmax(1) if released else p, atol=1e-5, rtol=0)
    assert float((p.softmax(1) - 1 / 3).abs().max()) < 0.5 * float((p - 1 / 3).abs().max())


def test_the_gradient_keeps_its_size_at_high_temperatures() -> None:
    sizes = []
    for temperature in (1e3, 1e4):
        student = draw(1).requires_grad_()
        distillation_kl(student, draw(0), temperature).backward()
        sizes.append(student.grad.clone())
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.1, atol=1e-3)


def test_no_gradient_to_the_teacher_and_zeros_among_probabilities() -> None:
    teacher, student = draw(0).requires_grad_(), draw(1).requires_grad_()
    distillation_kl(student, teacher).backward()
    assert teacher.grad is None
    certain = torch.tensor([[1.0, 0.0]])
    assert float(distillation_kl(torch.zeros(1, 2), certain, teacher_is="probabilities")) == pytest.approx(0.693147)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distillation_kl(UNIFORM, TEACHER[:, :2]), r"shape of student_logits, \[1, 3\] \(got \[1, 2\]\)"),
        (lambda: distillation_kl(UNIFORM, TEACHER, 0.0), "temperature must be in"),
        (lambda: distillation_kl(UNIFORM, TEACHER, teacher_is="scores"), "teacher_is must be one of"),
        (lambda: distillation_kl(UNIFORM, TEACHER, teacher_is="probabilities"), "no probabilities"),
        (lambda: distillation_kl(UNIFORM, UNIFORM + 0.2, teacher_is="probabilities"), "no probabilities"),
        (lambda: soft_code_kl(TEACHER, UNIFORM, -1.0), "temperature must be in"),
        (lambda: soft_code_kl(TEACHER, UNIFORM, 0.0, released=True), "tau must be in"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
