"""Attention against PyTorch's module, ConViT's positional half against a convolution, token MLPs against loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from graphkit.nn import GatedPositionalAttention, MixerBlock, SelfAttention, TokenMixingGate
from graphkit.ops import TokenLayout
from graphkit.transforms import ImageTokens


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def grid(rows: int, columns: int) -> Data:
    return ImageTokens()(Data(image=torch.rand(1, rows, columns)))


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_is_pytorchs(causal):
    ours = SelfAttention(6, heads=2, causal=causal).double()
    theirs = nn.MultiheadAttention(6, 2, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.lin_in.weight.data, ours.lin_in.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.lin_out.weight.data, ours.lin_out.bias.data
    x = random(7, 6)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(ours(x), theirs(x[None], x[None], x[None], attn_mask=mask)[0][0])


def test_without_its_gate_convit_is_plain_attention():
    model = GatedPositionalAttention(6, heads=2).double()
    with torch.no_grad():
        model.gating.fill_(-1e9)
    data, x = grid(2, 3), random(6, 6)
    q, k = model.lin_qk(x).view(6, 2, 2, 3).permute(1, 2, 0, 3)
    v = model.lin_v(x).view(6, 2, 3).transpose(0, 1)
    want = model.lin_out(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(model(x, data), want)


def test_convit_starts_as_a_convolution():
    model = GatedPositionalAttention(9, heads=9, locality=50.0).double()
    with torch.no_grad():
        model.gating.fill_(1e9)
        model.lin_out.weight.copy_(random(9, 9))
    x = random(25, 9)
    out = model(x, grid(5, 5)).view(5, 5, 9)
    image = x.view(5, 5, 9)
    for r in range(1, 4):
        for c in range(1, 4):
            # Head a * 3 + b carries its channel from (a - 1, b - 1) away.
            seen = torch.stack([image[r + h // 3 - 1, c + h % 3 - 1, h] for h in range(9)])
            torch.testing.assert_close(out[r, c], model.lin_out(seen), atol=1e-6, rtol=1e-6)


def test_positional_attention_sums_to_one_and_grids_of_equal_area_differ():
    model = GatedPositionalAttention(8, heads=4).double()
    graphs = [grid(2, 6), grid(3, 4), grid(1, 2)]
    layout = TokenLayout.of(Batch.from_data_list(graphs), 26)
    weight = model.positional_attention(layout)
    torch.testing.assert_close(weight.sum(-1), torch.ones_like(weight.sum(-1)))
    assert not torch.allclose(weight[0], weight[1])
    assert weight[2, :, :, 2:].abs().max() == 0
    assert model.positional_attention(TokenLayout.of(Batch.from_data_list(graphs[:1] * 2), 24)).size(0) == 1
    far = model.non_locality(random(26, 8), layout)
    assert far.shape == (4,)
    assert bool((far > 0).all())


def test_mixer_block_is_a_loop():
    block = MixerBlock(3, num_tokens=5, hidden_channels=4).double()
    x = random(3, 3)
    z = torch.zeros(5, 3, dtype=torch.float64)
    z[:3] = block.token_norm(x)
    hidden = F.gelu(block.token_mlp.lin_in.weight @ z + block.token_mlp.lin_in.bias[:, None])
    m = x + (block.token_mlp.lin_out.weight @ hidden + block.token_mlp.lin_out.bias[:, None])[:3]
    torch.testing.assert_close(block(x), m + block.channel_mlp(block.channel_norm(m)))


def test_a_gate_times_a_map_of_ones_is_the_inner_block():
    gate = TokenMixingGate(3, num_tokens=4).double()
    nn.init.zeros_(gate.lin.weight)
    nn.init.ones_(gate.lin.bias)
    x = random(4, 3)
    torch.testing.assert_close(gate(x), gate.gate(x))


def test_places_matter_to_token_mlps():
    gate = TokenMixingGate(3, num_tokens=4).double()
    x = random(4, 3)
    swapped = x[[1, 0, 2, 3]]
    assert not torch.allclose(gate(swapped), gate(x)[[1, 0, 2, 3]])
    for part in (gate.gate.token_mlp.lin_in.weight, gate.gate.token_mlp.lin_out.weight.data.t()):
        part.data[:, [0, 1]] = part.data[:, [1, 0]]
    with torch.no_grad():
        gate.gate.token_mlp.lin_out.bias[[0, 1]] = gate.gate.token_mlp.lin_out.bias[[1, 0]]
    moved = gate(swapped)
    for part in (gate.gate.token_mlp.lin_in.weight, gate.gate.token_mlp.lin_out.weight.data.t()):
        part.data[:, [0, 1]] = part.data[:, [1, 0]]
    with torch.no_grad():
        gate.gate.token_mlp.lin_out.bias[[0, 1]] = gate.gate.token_mlp.lin_out.bias[[1, 0]]
    torch.testing.assert_close(moved, gate(x)[[1, 0, 2, 3]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SelfAttention(7, heads=2), "multiple of heads=2"),
        (lambda: GatedPositionalAttention(7, heads=2), "multiple of heads=2"),
        (lambda: GatedPositionalAttention(4)(torch.ones(3, 4)), "needs pos"),
        (lambda: MixerBlock(4, num_tokens=2)(torch.ones(3, 4)), "has 3 tokens, MixerBlock takes at most 2"),
        (lambda: TokenMixingGate(4, num_tokens=0), "num_tokens must be"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
