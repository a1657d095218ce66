"""SpikeGPT: spikes, streams of tokens, the start, gradients through spikes, what is counted."""

from __future__ import annotations

import pytest
import torch

from graphkit.nn import LIF, Binarize, RWKVChannelMix, RWKVTimeMix, SpikeGPT, SpikeGPTBlock, SpikeMeter
from graphkit.ops import lif_scan, spike

IDS = torch.tensor([0, 3, 1, 4, 4, 2, 0, 1, 1])
PTR = torch.tensor([0, 4, 4, 9])


def trained_like(module: torch.nn.Module, scale: float = 0.7) -> torch.nn.Module:
    """Weights as after a training, so that neurons fire."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return module.eval()


def model(**options) -> SpikeGPT:
    torch.manual_seed(0)
    return trained_like(SpikeGPT(1, 8, 5, num_embeddings=5, **options)).double()


def test_at_the_start_no_neuron_fires_and_blocks_add_nothing():
    torch.manual_seed(0)
    fresh = SpikeGPT(1, 8, 5, num_embeddings=5).eval()
    with SpikeMeter(fresh) as meter:
        out = fresh(IDS, PTR)
    rates = meter.rates()
    assert {name: rate for name, rate in rates.items() if rate and name != "binarize"} == {}
    wanted = fresh.lin_out(fresh.norm(fresh.input_norm(spike(fresh.embed(IDS)))))
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_first_weights(layer):
    mix = RWKVTimeMix(4, layer, 3)
    depth = layer / 2
    for c in range(4):
        assert float(mix.log_decay[c]) == pytest.approx(-5 + 8 * (c / 3) ** (0.7 + 1.3 * depth), abs=1e-5)
        assert float(mix.mix_k[c]) == pytest.approx((c / 4) ** (1 - layer / 3), abs=1e-6)
        assert float(mix.mix_v[c]) == pytest.approx((c / 4) ** (1 - layer / 3) + 0.3 * depth, abs=1e-6)
        assert float(mix.mix_r[c]) == pytest.approx((c / 4) ** (0.5 * (1 - layer / 3)), abs=1e-6)
        assert float(mix.bonus[c]) == pytest.approx(-1.2039728 + 0.5 * ((c + 1) % 3 - 1), abs=1e-5)
    assert RWKVTimeMix(1).log_decay.shape == (1,)


def test_what_blocks_add_is_zero_one_or_two():
    block = trained_like(SpikeGPTBlock(8)).double()
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    outputs = []
    for layer in (block.time_neurons, block.channel_neurons):
        layer.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    total = block(x)
    assert all({*out.unique().tolist()} == {0.0, 1.0} for out in outputs)
    assert torch.equal(total, outputs[0] + outputs[1])


@pytest.mark.parametrize("spiking", [True, False])
def test_token_by_token_is_the_whole_sequence(spiking):
    network = model(spiking=spiking, binary_input=spiking)
    whole, state = network(IDS), None
    for t in range(len(IDS)):
        out, state = network.step(IDS[t : t + 1], state)
        torch.testing.assert_close(out[0], whole[t])


def test_sequences_begin_anew():
    network = model()
    torch.testing.assert_close(network(IDS, PTR), torch.cat([network(IDS[:4]), network(IDS[4:])]))


def test_the_token_before_is_seen_by_both_mixings():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    for mixer, seen in ((RWKVChannelMix(4), {4, 5}), (RWKVTimeMix(4), {0, 1, 2, 3, 4, 5})):
        (found,) = torch.autograd.grad(trained_like(mixer).double()(x)[5].sum(), x)
        assert {*found.abs().sum(1).nonzero().view(-1).tolist()} == seen


def test_gradients_of_spikes_are_surrogates():
    """Layers by hand, with the same scans: neurons get the output of the mixings, nothing else."""
    block = trained_like(SpikeGPTBlock(4)).double()
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    options = {"decay": 0.5, "input_scale": 0.5, "alpha": 2.0}
    one = lif_scan(block.time_mix(block.time_norm(x)), **options)[0]
    two = lif_scan(block.channel_mix(block.channel_norm(x + one)), **options)[0]
    weight = torch.randn(7, 4, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(((one + two) * weight).sum(), x)
    (found,) = torch.autograd.grad((block(x) * weight).sum(), x)
    torch.testing.assert_close(found, wanted)
    assert float(found.abs().sum()) > 0


def test_it_learns_a_cycle_and_says_it():
    torch.manual_seed(0)
    network = SpikeGPT(1, 32, 4, num_layers=1, num_embeddings=4)
    ids = torch.arange(4).repeat(16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(ids[:-1]), ids[1:])
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.1
    assert network.generate(torch.tensor([0, 1]), 6, temperature=0).tolist() == [2, 3, 0, 1, 2, 3]


def test_rates_and_operations():
    network = model()
    with SpikeMeter(network) as meter:
        network(IDS, PTR)
    rates = meter.rates()
    assert set(rates) == {"binarize", *(f"mixers.{i}.{kind}_neurons" for i in (0, 1) for kind in ("time", "channel"))}
    assert 0 < meter.rate() < 1
    wanted = 8 * 3 * 8 * (rates["binarize"] + rates["mixers.0.channel_neurons"])
    wanted += 8 * 5 * 8 * (rates["mixers.0.time_neurons"] + rates["mixers.1.time_neurons"])
    wanted += 8 * 5 * rates["mixers.1.channel_neurons"]
    assert network.synaptic_operations(rates) == pytest.approx(wanted)
    network(IDS)
    assert meter.rates() == rates  # closed


def test_a_layer_of_time_steps():
    x = 3 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    layer = LIF(reset="soft")
    spikes = layer(x)
    assert spikes.shape == x.shape
    torch.testing.assert_close(spikes[:, 1], layer(x[:, 1]))
    state = None
    for t in range(5):
        out, state = layer.step(x[t], state)
        assert torch.equal(out, spikes[t])
    assert torch.equal(Binarize()(x), (x >= 0).float())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LIF(tau=0.5), ValueError, "tau"),
        (lambda: LIF(threshold=0), ValueError, "threshold"),
        (lambda: LIF(reset="half"), ValueError, "reset must be one of"),
        (lambda: LIF()(torch.ones(2, 3, 4), PTR), ValueError, r"shape \[N, F\] with tokens"),
        (lambda: RWKVTimeMix(4, 2, 2), ValueError, "layer"),
        (lambda: SpikeMeter(torch.nn.Linear(1, 1)), ValueError, "layers of spiking neurons"),
        (lambda: model()(torch.tensor([5])), IndexError, r"outside \[0, 5\)"),
        (lambda: model()(torch.tensor([0.5])), ValueError, "vector of ids"),
        (lambda: LIF().step(torch.ones(2, 3), torch.ones(1, 3)), ValueError, "state must have shape"),
        (lambda: LIF()(torch.tensor([[0.0], [torch.nan]])), ValueError, r"x holds nan at \[1, 0\]"),
        (lambda: LIF()(torch.full((2, 1, 1), torch.inf)), ValueError, r"x holds inf at \[0, 0, 0\]"),
        (lambda: LIF().step(torch.tensor([[torch.nan]])), ValueError, r"x holds nan at \[0, 0\]"),
        (lambda: LIF()(torch.ones(2, 3, dtype=torch.long)), TypeError, "x must be floating point .got torch.int64"),
        (lambda: LIF().step(torch.ones(2, 3, dtype=torch.long)), TypeError, "x must be floating point"),
        (lambda: LIF()([[1.0]]), TypeError, "x must be a torch.Tensor .got list"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_spikes_do_not_hide_that_a_number_is_none():
    with pytest.raises(ValueError, match=r"x holds nan at \[1, 0\]"):
        SpikeGPT(1, 8, 2)(torch.tensor([[0.0], [torch.nan]]))
