"""Every public mixer keeps its contract, and the contract suite catches mixers that do not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphkit.nn
from graphkit.nn import (
    PGN,
    AxisGatedMLP,
    BiGatedLinearAttention,
    BiMamba,
    GatedLinearAttention,
    GatedPositionalAttention,
    GLAWindowConv,
    GridDepthwiseConv,
    Hopfield,
    MeanMixer,
    MixerBlock,
    MultiAxisGatedMLP,
    NeighborDepthwiseConv,
    NiNBlock,
    Recurrent,
    RWKVChannelMix,
    RWKVTimeMix,
    SelectableKANConv2d,
    SelectiveSSM,
    SelfAttention,
    SpikeGPTBlock,
    TokenMixer,
    TokenMixingGate,
)
from graphkit.ops import TokenLayout, linear_scan
from graphkit.testing import MIXER_CHECKS, check_token_mixer

Make = Callable[[], TokenMixer]


def with_weights(mixer: TokenMixer) -> TokenMixer:
    """A mixer whose output is 0 at the start, with other weights."""
    with torch.no_grad():
        for weight in mixer.parameters():
            weight.add_(0.7 * torch.randn(weight.shape))
    return mixer


TABLE: dict[type, dict[str, tuple[Make, dict[str, Any]]]] = {
    MeanMixer: {"mean": (lambda: MeanMixer(4), {})},
    GatedLinearAttention: {
        "one direction": (lambda: GatedLinearAttention(8, 2), {}),
        "both": (lambda: GatedLinearAttention(8, 2, bidirectional=True, init="xavier_small"), {}),
    },
    GLAWindowConv: {
        "window": (lambda: GLAWindowConv(8, 2, window=16), {}),
        "edges": (lambda: GLAWindowConv(8, 2, over="edges"), {}),
    },
    RWKVTimeMix: {"time": (lambda: with_weights(RWKVTimeMix(4, layer=1, num_layers=2)), {})},
    # Two tokens back is out of its sight.
    RWKVChannelMix: {"channels": (lambda: with_weights(RWKVChannelMix(4)), {"skip": ["reach"]})},
    SpikeGPTBlock: {
        # Gradients of spikes are surrogates; tests/nn/test_spikegpt.py compares them with what is written.
        "spiking": (lambda: with_weights(SpikeGPTBlock(4)), {"skip": ["gradcheck"]}),
        "not spiking": (lambda: with_weights(SpikeGPTBlock(4, spiking=False)), {}),
    },
    SelectiveSSM: {
        "forwards": (lambda: SelectiveSSM(4, d_state=3), {}),
        "backwards": (lambda: SelectiveSSM(4, d_state=3, d_conv=1, reverse=True), {}),
    },
    BiMamba: {"both": (lambda: BiMamba(4, d_state=3), {})},
    PGN: {
        "all before": (lambda: PGN(4, 5, window=8), {}),
        # Some tokens are beyond the window, others of another phase.
        "phases": (lambda: PGN(4, 4, window=2, period=3), {"skip": ["reach"]}),
    },
    # PyTorch's modules keep a list of their own weights.
    Recurrent: {cell: (lambda cell=cell: Recurrent(4, cell), {"skip": ["device"]}) for cell in ("gru", "lstm")},
    SelfAttention: {
        "all": (lambda: SelfAttention(4, heads=2), {}),
        "causal": (lambda: SelfAttention(4, heads=2, causal=True, bias=False), {}),
    },
    GatedPositionalAttention: {
        "local": (lambda: GatedPositionalAttention(8, heads=4), {}),
        "random": (lambda: GatedPositionalAttention(6, heads=3, local_init=False), {}),
        "edges": (lambda: GatedPositionalAttention(8, heads=4, over="edges"), {}),
    },
    GridDepthwiseConv: {
        "grid": (lambda: GridDepthwiseConv(4), {}),
        "edges": (lambda: GridDepthwiseConv(4, kernel=5, over="edges"), {}),
    },
    NeighborDepthwiseConv: {"neighbours": (lambda: NeighborDepthwiseConv(4), {})},
    BiGatedLinearAttention: {
        "grid": (lambda: BiGatedLinearAttention(8, heads=2), {}),
        "edges": (lambda: BiGatedLinearAttention(8, heads=1, local="edges", silu=True), {}),
        "any graph": (lambda: BiGatedLinearAttention(8, heads=4, local="graph"), {}),
        "not local": (lambda: BiGatedLinearAttention(8, heads=2, local="none", own_gates=False), {}),
    },
    Hopfield: {
        "attention": (lambda: Hopfield(4, hidden_channels=2, heads=2), {}),
        "three retrievals": (lambda: Hopfield(4, 3, heads=2, beta=[0.5, 2.0], steps=2, out_channels=5), {}),
    },
    MixerBlock: {"nine": (lambda: MixerBlock(4, num_tokens=9), {})},
    NiNBlock: {
        "one norm": (lambda: NiNBlock(4, num_tokens=9), {}),
        "two norms": (lambda: NiNBlock(4, num_tokens=9, share_norm=False), {}),
    },
    AxisGatedMLP: {
        "block": (lambda: AxisGatedMLP(4, 2, "block"), {}),
        "grid": (lambda: AxisGatedMLP(4, 2, "grid"), {}),
    },
    MultiAxisGatedMLP: {"both": (lambda: MultiAxisGatedMLP(4, 2, 3), {})},
    TokenMixingGate: {"ten": (lambda: TokenMixingGate(4, num_tokens=10), {})},
    SelectableKANConv2d: {"window": (lambda: SelectableKANConv2d(3, 4, families=("rbf", "cheby"), grid=2), {})},
}
CASES = [(kind, name) for kind, rows in TABLE.items() for name in rows]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}-{name}" for kind, name in CASES])
def test_contract(kind, name):
    make, options = TABLE[kind][name]
    checked = check_token_mixer(make, **options)
    assert {"padding", "isolation", "gradcheck"} - {*options.get("skip", ())} <= {*checked}


def test_every_public_mixer_is_here():
    public = {
        value
        for value in vars(graphkit.nn).values()
        if inspect.isclass(value) and issubclass(value, TokenMixer) and value is not TokenMixer
    }
    assert public == {*TABLE}


class Broken(TokenMixer):
    """Mean of the tokens read so far, with a fault."""

    causal = True

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.fault = 4, 4, fault
        self.lin = nn.Linear(4, 4)

    def mix(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        if self.fault == "isolation":
            return self.lin(x + x.mean(0))
        if self.fault == "causality":
            return self.lin(x + tokens.mean(x)[tokens.batch])
        if self.fault == "relabelling":
            h = linear_scan(torch.ones_like(x), x, tokens.ptr)
            return self.lin(h)
        if self.fault == "padding":
            return self.lin(x) * tokens.max_length
        if self.fault == "inputs_unchanged":
            x += 1
            x -= 1
        h = tokens.restore(linear_scan(torch.ones_like(x), tokens.sequence(x), tokens.ptr))
        if self.fault == "reach":
            h = x
        if self.fault == "gradients":
            h = h.detach()
        if self.fault == "gradcheck":
            h = h + x.detach() * x
        if self.fault == "deterministic":
            h = h + torch.rand(())
        return self.lin(h)

    def mix_last(self, x: Tensor, tokens: TokenLayout) -> Tensor:
        return tokens.mean(x) if self.fault == "last" else super().mix_last(x, tokens)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.fault != "streaming":
            raise NotImplementedError
        return self.lin(x), x


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("isolation", {"padding", "separate_graphs", "isolation"}),
        ("causality", {"causality"}),
        ("relabelling", {"relabelling"}),
        ("padding", {"padding", "separate_graphs"}),
        ("reach", {"reach"}),
        ("gradients", {"reach", "gradients"}),
        ("gradcheck", {"gradcheck"}),
        ("deterministic", {"dtype", "padding", "deterministic"}),
        ("last", {"last"}),
        ("streaming", {"streaming"}),
    ],
)
def test_a_fault_is_found(fault, found):
    with pytest.raises(AssertionError, match="|".join(f"check '{name}'" for name in sorted(found))):
        check_token_mixer(lambda: Broken(fault))


def test_without_a_fault_nothing_is_found():
    assert "streaming" not in check_token_mixer(lambda: Broken(""))


def test_arguments():
    with pytest.raises(ValueError, match="skip must name"):
        check_token_mixer(lambda: MeanMixer(4), skip=["speed"])
    with pytest.raises(ValueError, match="lengths must be"):
        check_token_mixer(lambda: MeanMixer(4), lengths=[4])
    assert "reach" not in check_token_mixer(lambda: MeanMixer(4), skip=["reach"])
    assert len({*MIXER_CHECKS}) == len(MIXER_CHECKS)
