"""Every tokenizer through every mixer to every head; generation token by token; wrong input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch_geometric.data import Batch, Data, TemporalData

from graphkit.nn import (
    PGN,
    BiGatedLinearAttention,
    BiMamba,
    GatedLinearAttention,
    GatedPositionalAttention,
    GLAWindowConv,
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
    TokenModel,
)
from graphkit.ops import TokenLayout
from graphkit.transforms import (
    EventTokens,
    HopTokens,
    ImageTokens,
    PPRTokens,
    RandomWalkTokens,
    SequenceTokens,
    SeriesTokens,
    SortTokens,
    TableTokens,
)

MIXERS: dict[str, Callable[[int], TokenMixer]] = {
    "mean": MeanMixer,
    "gla": lambda channels: GatedLinearAttention(channels, heads=2),
    "gla window": lambda channels: GLAWindowConv(channels, heads=2, window=3),
    "rwkv": RWKVTimeMix,
    "spikegpt": SpikeGPTBlock,
    "bidirectional gla": lambda channels: GatedLinearAttention(channels, heads=2, bidirectional=True),
    "mamba": lambda channels: SelectiveSSM(channels, d_state=2),
    "bidirectional mamba": lambda channels: BiMamba(channels, d_state=2),
    "pgn": lambda channels: PGN(channels, channels, window=3),
    "lstm": lambda channels: Recurrent(channels, "lstm"),
    "attention": lambda channels: SelfAttention(channels, heads=2),
    "causal attention": lambda channels: SelfAttention(channels, heads=2, causal=True),
    "convit": lambda channels: GatedPositionalAttention(channels, heads=4),
    "vig": lambda channels: BiGatedLinearAttention(channels, heads=2),
    "hopfield": lambda channels: Hopfield(channels, hidden_channels=4, heads=2, steps=1),
    "mlp mixer": lambda channels: MixerBlock(channels, num_tokens=8),
    "ninformer": lambda channels: TokenMixingGate(channels, num_tokens=8),
    "whole ninformer": lambda channels: NiNBlock(channels, num_tokens=8),
    "maxim": lambda channels: MultiAxisGatedMLP(channels, block_size=2),
    "s-convkan": lambda channels: SelectableKANConv2d(channels, families=("rbf",), grid=2),
}

IDS = torch.tensor([0, 1, 2])


def speaker() -> TokenModel:
    return TokenModel(1, 8, 3, MIXERS["gla"], num_embeddings=3)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def ring() -> Data:
    place = torch.arange(6)
    after = (place + 1) % 6
    return Data(x=random(6, 3), edge_index=torch.stack([torch.cat([place, after]), torch.cat([after, place])]))


def two(tokenizer: Callable[[Data], Data], **fields: torch.Tensor) -> Data:
    return Batch.from_data_list([tokenizer(Data(**fields)) for _ in range(2)])


TOKENS: dict[str, Callable[[], Data]] = {
    "image": lambda: two(ImageTokens(2), image=random(1, 4, 4)),
    "sequence": lambda: two(SequenceTokens(), sequence=random(5, 2)),
    "series": lambda: two(SeriesTokens(2), series=random(7, 2)),
    "variables": lambda: two(SeriesTokens(by="variable"), series=random(7, 2)),
    "table": lambda: two(TableTokens(), row=random(4)),
    "events": lambda: EventTokens(3)(
        TemporalData(src=torch.tensor([0, 1, 0, 0, 0]), dst=torch.arange(5), t=torch.arange(5))
    ),
    "hops": lambda: HopTokens(2)(ring()),
    "pagerank": lambda: PPRTokens(2)(ring()),
    "walks": lambda: RandomWalkTokens(2, 1)(ring()),
    "nodes": lambda: SortTokens("degree")(ring()),
}


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_tokenizer_goes_through_every_mixer_to_every_head(tokens):
    data = TOKENS[tokens]()
    layout = TokenLayout.of(data, data.num_nodes)
    for name, mixer in MIXERS.items():
        if mixer(8).position == "grid" and layout.pos is None:
            continue  # it needs a grid, and says so
        for head, rows in (("token", layout.num_tokens), ("mean", layout.num_graphs), ("last", layout.num_graphs)):
            torch.manual_seed(0)
            model = TokenModel(data.x.size(1), 8, 3, mixer, head=head, max_positions=8)
            out = model(data.x, data)
            assert out.shape == (rows, 3), (name, head)
            out.sum().backward()
            for part, weight in model.named_parameters():
                assert weight.grad is not None, (name, head, part)
                assert bool(torch.isfinite(weight.grad).all())


@pytest.mark.parametrize("mixer", ["gla", "mamba", "pgn"])
def test_token_by_token_is_the_whole_sequence(mixer):
    model = TokenModel(1, 8, 5, MIXERS[mixer], num_embeddings=5).double().eval()
    ids = torch.tensor([0, 3, 1, 4, 4, 2])
    whole, state = model(ids), None
    for place in range(6):
        out, state = model.step(ids[place : place + 1], state)
        torch.testing.assert_close(out[0], whole[place])


def test_tokens_are_made_from_a_prompt():
    torch.manual_seed(0)
    model = TokenModel(1, 8, 5, MIXERS["gla"], num_embeddings=5)
    prompt = torch.tensor([[0, 3, 1], [4, 4, 2]])
    greedy = model.generate(prompt, 4, temperature=0)
    text = prompt
    for place in range(4):
        last = torch.stack([model(row)[-1] for row in text])
        assert torch.equal(greedy[:, place], last.argmax(1))
        text = torch.cat([text, greedy[:, place : place + 1]], 1)
    assert torch.equal(model.generate(prompt[0], 4, temperature=0), greedy[0])
    assert torch.equal(model.generate(prompt, 4, top_k=1), greedy)
    one, two = (model.generate(prompt, 9, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    many = model.generate(prompt[:1].expand(4000, 3), 1, generator=torch.Generator().manual_seed(2)).view(-1)
    share = torch.bincount(many, minlength=5) / 4000
    torch.testing.assert_close(share, model(prompt[0])[-1].softmax(0), atol=0.04, rtol=0)


def test_a_causal_model_cannot_see_what_comes():
    model = TokenModel(2, 8, 3, MIXERS["mamba"]).eval()
    x = random(6, 2)
    changed = x.clone()
    changed[4:] = 0
    torch.testing.assert_close(model(x)[:4], model(changed)[:4])
    assert model.causal
    assert not TokenModel(2, 8, 3, MIXERS["bidirectional mamba"]).causal


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TokenModel(2, 8, 3, MeanMixer, head="node"), ValueError, "head must be one of"),
        (lambda: TokenModel(2, 8, 3, lambda channels: MeanMixer(4)), ValueError, r"from 8 to 8 channels .got 4 to 4"),
        (lambda: TokenModel(2, 8, 3, MeanMixer)(random(4, 3)), ValueError, r"x must have shape \[N, 2\]"),
        (lambda: TokenModel(2, 8, 3, MeanMixer, max_positions=3)(random(4, 2)), ValueError, "max_positions=3"),
        (lambda: TokenModel(1, 8, 3, MeanMixer, num_embeddings=3)(torch.tensor([0, 3])), IndexError, r"outside \[0, 3"),
        (lambda: TokenModel(1, 8, 3, MeanMixer, num_embeddings=3)(random(2, 1)), ValueError, "a vector of ids"),
        (lambda: TokenModel(2, 8, 3, BiMamba).step(random(1, 2)), ValueError, "step needs causal mixers"),
        (lambda: TokenModel(2, 8, 3, MeanMixer).generate(IDS, 1), ValueError, "generate needs tokens"),
        (lambda: speaker().generate(IDS[:0], 1), ValueError, "prompt must"),
        (
            lambda: speaker().generate(IDS, 1, -1.0),
            ValueError,
            "temperature",
        ),
        (lambda: speaker().generate(IDS, 1, 1.0, 4), ValueError, "top_k"),
        (lambda: GatedLinearAttention(8, heads=3), ValueError, "must be a multiple of heads=3"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TokenModel(4, 4, 2, MeanMixer)(None), ValueError, r"x must have shape \[N, 4\] \(got NoneType\)"),
        (lambda: TokenModel(4, 4, 2, MeanMixer)(torch.ones(3, 4).long()), TypeError, "convert with .float"),
        (
            lambda: TokenModel(4, 4, 2, MeanMixer)(torch.ones(3, 4).double()),
            TypeError,
            "but the weights are torch.float32",
        ),
        (
            lambda: TokenModel(4, 4, 2, MeanMixer).to("meta")(torch.ones(3, 4)),
            ValueError,
            "x is on cpu, weights on meta",
        ),
        (lambda: TokenModel(1, 4, 2, MeanMixer, num_embeddings=3)(torch.tensor([True])), ValueError, "a vector of ids"),
        (lambda: TokenModel(4, 4, 2, "mean"), TypeError, "mixer must make a mixer of a width"),
        (lambda: TokenModel(4, 4, 2, MeanMixer(4)), TypeError, "mixer must make a mixer of a width"),
        (lambda: TokenModel(4, 4, 2, lambda c: torch.nn.Linear(c, c)), ValueError, "must make token mixers"),
        (lambda: SelfAttention(4).to("meta")(torch.ones(3, 4)), ValueError, "x is on cpu, weights on meta"),
        (lambda: SelfAttention(4)(torch.ones(3, 4).double()), TypeError, "but the weights are torch.float32"),
        (lambda: SelfAttention(4)([[1.0] * 4]), ValueError, "got list"),
    ],
)
def test_what_does_not_fit_the_weights(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "make",
    [
        GatedLinearAttention,
        SelectiveSSM,
        lambda c: PGN(c, c, 2),
        Recurrent,
        partial(Recurrent, cell="lstm"),
        SpikeGPTBlock,
        RWKVChannelMix,
    ],
)
def test_a_state_of_other_sequences_and_tokens_of_another_width(make):
    mixer = make(8)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 8\] \(got \[2, 7\]\)"):
        mixer.step(torch.ones(2, 7))
    with pytest.raises(TypeError, match="x must be floating point"):
        mixer.step(torch.ones(2, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="state must be of the 2 sequences of x"):
        mixer.step(torch.ones(2, 8), mixer.step(torch.ones(1, 8))[1])


@pytest.mark.parametrize("edge", [[0, 9], [-1, 0]])
@pytest.mark.parametrize("make", [NeighborDepthwiseConv, partial(GLAWindowConv, over="edges")])
def test_edges_beyond_the_tokens(make, edge):
    with pytest.raises(IndexError, match="edge_index holds node id"):
        make(8)(torch.ones(3, 8), Data(edge_index=torch.tensor(edge)[:, None], num_nodes=3))
