"""NiNformer: its gate and block against loops, what its parts do alone, its size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphkit.nn import MixerBlock, NiNBlock, NiNformer, TokenMixingGate


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scrambled(module: nn.Module) -> nn.Module:
    module = module.double().eval()
    generator = torch.Generator().manual_seed(1)
    for value in module.parameters():
        value.data = 0.4 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return module


def mlp(part, x):
    return F.gelu(x @ part.lin_in.weight.t() + part.lin_in.bias) @ part.lin_out.weight.t() + part.lin_out.bias


@pytest.mark.parametrize("share_norm", [True, False])
def test_a_block_is_its_equations(share_norm):
    block = scrambled(NiNBlock(3, num_tokens=4, hidden_channels=5, share_norm=share_norm))
    x = random(4, 3)
    inner = block.gate.gate
    z = block.norm(x)
    mixed = z.clone()
    normed = inner.token_norm(z)
    for channel in range(3):  # one MLP over the places, shared by the channels
        mixed[:, channel] += mlp(inner.token_mlp, normed[:, channel])
    for place in range(4):
        mixed[place] += mlp(inner.channel_mlp, inner.channel_norm(mixed[place]))
    h = x + (z @ block.gate.lin.weight.t() + block.gate.lin.bias) * mixed
    want = h + mlp(block.mlp, (block.norm if share_norm else block.mlp_norm)(h))
    torch.testing.assert_close(block(x), want)


def test_one_norm_or_two():
    norms = [part for part in NiNBlock(4, 3).children() if isinstance(part, nn.LayerNorm)]
    assert len(norms) == 1
    shared, apart = NiNBlock(4, 3), NiNBlock(4, 3, share_norm=False)
    assert shared.norm is shared.mlp_norm
    assert apart.norm is not apart.mlp_norm
    sizes = [sum(p.numel() for p in block.parameters()) for block in (shared, apart)]
    assert sizes[1] - sizes[0] == 8


def test_the_factors_of_a_gate_alone():
    gate = scrambled(TokenMixingGate(3, num_tokens=4))
    x = random(4, 3)
    nn.init.zeros_(gate.lin.weight)
    nn.init.ones_(gate.lin.bias)
    torch.testing.assert_close(gate(x), gate.gate(x))
    # A mixer that gives ones: nothing but the linear map is left.
    gate = scrambled(TokenMixingGate(3, num_tokens=4))
    gate.gate.mix = lambda x, tokens: torch.ones_like(x)
    torch.testing.assert_close(gate(x), gate.lin(x))


def test_weights_belong_to_places():
    block = scrambled(NiNBlock(3, num_tokens=4))
    x, order = random(4, 3), torch.tensor([0, 2, 1, 3])
    want = block(x)[order]
    assert not torch.allclose(block(x[order]), want)
    token_mlp = block.gate.gate.token_mlp
    token_mlp.lin_in.weight.data = token_mlp.lin_in.weight.data[:, order]
    token_mlp.lin_out.weight.data = token_mlp.lin_out.weight.data[order]
    token_mlp.lin_out.bias.data = token_mlp.lin_out.bias.data[order]
    torch.testing.assert_close(block(x[order]), want)


def test_parameters_of_the_script_for_cifar_10():
    assert sum(p.numel() for p in NiNformer(48, 256, 64, 10, hidden_channels=512).parameters()) == 2_652_170


def test_missing_tokens_are_not_in_the_mean():
    model = scrambled(NiNformer(2, 4, num_tokens=5, out_channels=3, num_layers=2))
    x, ptr = random(7, 2), torch.tensor([0, 2, 7])
    out = model(x, ptr)
    torch.testing.assert_close(out[:1], model(x[:2]))
    h = model.embed(x[:2])
    for block in model.blocks:
        h = block(h)
    torch.testing.assert_close(out[0], model.lin_out(h.mean(0)))


def test_dropout_is_in_all_mlps():
    block = NiNBlock(4, 3, dropout=0.4)
    rates = [part.p for part in block.modules() if isinstance(part, nn.Dropout)]
    assert rates == [0.4] * 3
    x = random(3, 4).float()
    assert not torch.equal(block(x), block(x))
    assert torch.equal(block.eval()(x), block(x))


def test_reset_draws_all_weights_anew():
    model = NiNformer(2, 4, num_tokens=5, out_channels=3)
    for value in model.parameters():
        value.data.fill_(torch.nan)
    model.reset_parameters()
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"a graph has 5 tokens, NiNBlock takes at most 4"):
        NiNformer(2, 4, num_tokens=4, out_channels=3)(torch.rand(5, 2))
    with pytest.raises(ValueError, match="num_tokens must be"):
        NiNformer(2, 4, num_tokens=0, out_channels=3)
    with pytest.raises(ValueError, match="dropout must be"):
        NiNBlock(4, 3, dropout=1.5)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 2\]"):
        NiNformer(2, 4, num_tokens=4, out_channels=3)(torch.rand(4, 3))
    with pytest.raises(ValueError, match="num_layers must be"):
        NiNformer(2, 4, num_tokens=4, out_channels=3, num_layers=0)
    assert MixerBlock(4, 3).max_length == NiNBlock(4, 3).max_length == 3
