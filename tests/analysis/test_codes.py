"""Reports of codes by hand; knowledge and control of a state machine with models that are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from graphkit.analysis import code_report, state_codes, state_control, valid_transitions
from graphkit.datasets.functions import FUNCTIONS, function_points
from graphkit.datasets.state_machine import read_states, state_machine_text
from graphkit.nn import CodebookLayer


def test_report_by_hand():
    ids = torch.tensor([[[0, 1], [2, 2]], [[0, 3], [2, 2]], [[3, 0], [1, 1]]])
    report = code_report(ids, torch.tensor([0, 0, 1]), num_codes=4)
    assert report.uses.tolist() == [[3, 1, 0, 2], [0, 2, 4, 0]]
    torch.testing.assert_close(report.precision[0], torch.tensor([2 / 3, 1, 0, 0.5]))
    torch.testing.assert_close(report.recall[0], torch.tensor([1.0, 0.5, 0, 0.5]))
    assert report.active.tolist() == [3, 2]
    torch.testing.assert_close(report.purity, torch.tensor([4 / 6, 1.0]))
    assert report.codes_of(1)[0, :, 0].tolist() == [0, 2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_counts_add_up_and_unlabelled_vectors_do_not_count(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, (20, 3, 2), generator=generator)
    labels = torch.randint(-1, 4, (20,), generator=generator)
    report = code_report(ids, labels, 5, 4)
    for g in range(3):
        for code in range(5):
            for label in range(4):
                assert int(report.joint[g, code, label]) == int((ids[labels == label][:, g] == code).sum())
    assert int(report.labels.sum()) == int((labels >= 0).sum())


def test_wrong_reports():
    with pytest.raises(ValueError, match=r"\[N, groups, k\]"):
        code_report(torch.zeros(3, 2).long(), torch.zeros(3).long())
    with pytest.raises(IndexError, match="labels below 1"):
        code_report(torch.zeros(3, 1, 1).long(), torch.tensor([0, 1, 0]), num_labels=1)


# State machines -------------------------------------------------------------------------------------------------------


def test_text_is_a_walk_through_the_machine():
    data = state_machine_text(num_states=30, out_degree=3, base=5, length=400, seed=2)
    states = read_states(data.x, data.width, 5)
    assert data.width == 4  # 5³ > 30 > 5²
    assert torch.equal(states.repeat_interleave(4), data.state)
    steps = {*zip(*data.transitions.tolist(), strict=True)}
    assert len(steps) == 90
    assert {*zip(states[:-1].tolist(), states[1:].tolist(), strict=True)} <= steps
    assert torch.equal(state_machine_text(30, 3, 5, 400, 2).x, data.x)
    assert not torch.equal(state_machine_text(30, 3, 5, 400, 3).x, data.x)
    with pytest.raises(ValueError, match="out_degree"):
        state_machine_text(5, 6)


def test_functions():
    for name in FUNCTIONS:
        data = function_points(name, 50, 1)
        assert data.y.isfinite().all()
        assert data.x.abs().max() <= 1
    x, y = function_points("fit-bump", 50).x, function_points("fit-bump", 50).y[:, 0]
    seventh = 64 * x[:, 1] ** 7 - 112 * x[:, 1] ** 5 + 56 * x[:, 1] ** 3 - 7 * x[:, 1]
    torch.testing.assert_close(y - torch.exp(-((x[:, 0] - 0.3) ** 2) / 0.005), seventh, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="did you mean 'fit-wave'"):
        function_points("fit-waves")


DATA = state_machine_text(num_states=20, out_degree=2, base=20, length=500)


class Machine(nn.Module):
    """Knows the machine; the state goes through a codebook with a code a state."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        follows = torch.zeros(21, 21)
        follows[DATA.transitions[0], DATA.transitions[1]] = 0.5
        self.table = follows.roll(1, 0) if wrong else follows
        self.coded = nn.Identity()
        self.coded.codebook = CodebookLayer(20, 20)
        self.coded.codebook.codebook.data = F.layer_norm(torch.eye(20), (20,))[None]

    def forward(self, x: torch.Tensor, tokens: object) -> torch.Tensor:
        seen = F.one_hot(x.clamp(max=19), 20).float()
        code = self.coded.codebook(seen).argmax(-1)
        # After a digit the blank; after a blank what follows the state before it.
        out = F.one_hot(torch.full_like(x, 20), 21).float()
        blank = (x == 20).nonzero()[:, 0]
        out[blank] = self.table[code[blank - 1]]
        return (out + 1e-9).log()


def test_a_model_that_knows_the_machine_is_right_and_another_is_not():
    assert valid_transitions(Machine().eval(), DATA, walks=20, length=5) == 1.0
    assert valid_transitions(Machine(wrong=True).eval(), DATA, walks=20, length=5) < 0.5


def test_codes_of_a_state_put_the_model_into_it():
    model = Machine().eval()
    places = torch.arange(10, 110)
    moved, stayed = state_control(model, DATA, places, context=6)
    assert moved == pytest.approx(1, abs=1e-4)
    assert stayed == pytest.approx(0, abs=1e-4)

    class Plain(Machine):
        def __init__(self):
            super().__init__()
            self.coded = nn.Identity()

        def forward(self, x, tokens):
            self.coded.codebook = lambda h: h
            return super().forward(x, tokens)

    moved, stayed = state_control(Plain().eval(), DATA, places, context=6)
    assert stayed == pytest.approx(1, abs=1e-4)
    assert moved == pytest.approx(0, abs=1e-4)


def test_codes_at_the_ends_of_states():
    ids, state = state_codes(Machine().eval(), DATA, torch.arange(10, 110), context=6)
    assert torch.equal(state, DATA.state[2 * torch.arange(10, 110)])
    assert [part.shape for part in ids.values()] == [(100, 1, 1)]
    with pytest.raises(ValueError, match="multiple of 2"):
        state_codes(Machine(), DATA, torch.arange(10), context=5)
    with pytest.raises(ValueError, match="places"):
        state_codes(Machine(), DATA, torch.tensor([1]), context=6)
