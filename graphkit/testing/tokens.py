"""A contract suite for token mixers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphkit.testing.suite import (
    Suite,
    check_names,
    fail,
    own_random_numbers,
    refuse_hidden_tensors,
    same,
    scrambled,
)
from graphkit.utils.checks import check_int
from graphkit.utils.seed import stream

#: What :func:`check_token_mixer` checks, in this order.
MIXER_CHECKS = (
    "shape",
    "dtype",
    "padding",
    "separate_graphs",
    "relabelling",
    "equivariance",
    "isolation",
    "causality",
    "reach",
    "sizes",
    "empty",
    "last",
    "streaming",
    "gradients",
    "gradcheck",
    "deterministic",
    "inputs_unchanged",
    "state_dict",
    "pickle",
    "device",
    "reset_parameters",
    "repr",
    "wrong_width",
    "wrong_tokens",
)


def check_token_mixer(
    make: Callable[[], Any],
    *,
    lengths: Collection[int] = (5, 1, 9, 3),
    strict_errors: bool = True,
    skip: Collection[str] = (),
    seed: int = 0,
) -> list[str]:
    """Check a mixer, a :class:`graphkit.nn.TokenMixer`, on small token graphs. Takes about a second.

    ===================== ==============================================================================================
    check                 what must hold
    ===================== ==============================================================================================
    shape, dtype          finite ``[N, out_channels]``; double and single precision agree; bfloat16 is finite if it runs
    padding               a longer graph in the batch changes no other graph's output
    separate_graphs       graphs one by one give what the batch gives
    relabelling           nodes permuted together with their places permute the output
    equivariance          with ``equivariant``, the order in which tokens are read makes no difference
    isolation             no gradient from another graph
    causality, reach      with ``causal``, a token has no gradient from those read after it; some token has one from
                          every token that it may read, unless the mixer reads edges or a grid
    sizes, empty          one token; a graph without tokens among others; no tokens at all
    last                  the last tokens alone are what the whole output holds of them
    streaming             with ``step``, token by token gives what the whole sequence gives
    gradients, gradcheck  every parameter and the input get a finite one; it is that of finite differences
    deterministic         the same seed gives the same weights and outputs
    inputs_unchanged      no input is written to
    state_dict, pickle    a round trip gives the same output
    device                no tensor or module is hidden from ``.to(device)``; a GPU, if any, gives the same
    reset_parameters      draws every parameter anew
    repr                  names the class
    wrong_width,          a ``ValueError`` or ``TypeError`` that tells what was got
    wrong_tokens
    ===================== ==============================================================================================

    Graphs have positions on a grid, times, an order and edges, so that a mixer of any kind finds what it reads.

    Args:
        make: makes a mixer with weights of the current seed.
        lengths: tokens of the graphs; no more than the mixer takes.
        strict_errors: errors must tell what was got.
        skip: checks to leave out, for promises that the mixer does not make.
        seed: seed of features and weights.

    Returns:
        The names of the checks that ran.

    Raises:
        AssertionError: a check failed; the message names it.
        ValueError: an unknown name in ``skip``, or fewer than two graphs of which one has three tokens or more.

    Example:
        >>> from graphkit.nn import MeanMixer
        >>> "isolation" in check_token_mixer(lambda: MeanMixer(4))
        True
    """
    check_names({*skip}, MIXER_CHECKS)
    sizes = [check_int(length, "lengths", 1) for length in lengths]
    if len(sizes) < 2 or max(sizes) < 3:
        raise ValueError(f"lengths must be those of two graphs or more, one of three tokens or more (got {sizes})")
    suite = _Mixers(make, sizes, strict_errors, seed)
    chosen = [name for name in MIXER_CHECKS if name not in skip]
    mixer = suite.mixer
    if not mixer.equivariant and "equivariance" in chosen:
        chosen.remove("equivariance")
    if not mixer.causal:
        chosen = [name for name in chosen if name not in ("causality", "streaming")]
    elif "streaming" in chosen and not suite.has_step():
        chosen.remove("streaming")
    return suite.run(chosen)


class _Mixers(Suite):
    def __init__(self, make: Callable[[], Any], lengths: list[int], strict: bool, seed: int) -> None:
        self.make, self.lengths, self.strict, self.seed = make, lengths, strict, seed
        self.mixer = self.made()
        self.name = type(self.mixer).__name__
        self.graphs = [self.graph(length, i) for i, length in enumerate(lengths)]

    def made(self) -> Any:
        with own_random_numbers():
            torch.manual_seed(self.seed)
            return self.make().double().eval()

    def random(self, *shape: int, salt: int) -> Tensor:
        return torch.randn(*shape, generator=stream(self.seed, 7, salt), dtype=torch.float64)

    def graph(self, length: int, salt: int) -> Data:
        """A chain of tokens on a grid three wide, with both directions of every edge and self-loops."""
        place = torch.arange(length)
        rows = -(-length // 3)
        chain = torch.stack([place[:-1], place[1:]])
        return Data(
            x=self.random(length, self.mixer.in_channels, salt=salt),
            pos=torch.stack([place // 3, place % 3], 1),
            grid_size=torch.tensor([[rows, 3]]),
            time=place * 2.0 + 0.5,
            order=place,
            edge_index=torch.cat([chain, chain.flip(0), torch.stack([place, place])], 1),
            num_nodes=length,
        )

    def run_on(self, graphs: list[Data], mixer: Any = None, x: Tensor | None = None) -> Tensor:
        batch = Batch.from_data_list(graphs)
        return (mixer or self.mixer)(batch.x if x is None else x, batch)

    def spans(self) -> list[slice]:
        ends = torch.tensor(self.lengths).cumsum(0).tolist()
        return [slice(end - length, end) for length, end in zip(self.lengths, ends, strict=True)]

    def has_step(self) -> bool:
        try:
            self.mixer.step(self.random(1, self.mixer.in_channels, salt=0))
        except NotImplementedError:
            return False
        return True

    def check_shape(self) -> None:
        out = self.run_on(self.graphs)
        wanted = [sum(self.lengths), self.mixer.out_channels]
        if not isinstance(out, Tensor) or list(out.shape) != wanted:
            fail(f"the output must have shape {wanted} (got {list(getattr(out, 'shape', ()))})")
        if not bool(torch.isfinite(out).all()):
            fail("the output holds NaN or infinity")

    def check_dtype(self) -> None:
        want = self.run_on(self.graphs)
        batch = Batch.from_data_list(self.graphs)
        single = copy.deepcopy(self.mixer).float()
        got = single(batch.x.float(), batch)
        if got.dtype != torch.float32:
            fail(f"single precision in, {got.dtype} out")
        same(got, want.float(), "in single precision")
        try:
            low = single.bfloat16()(batch.x.bfloat16(), batch)
        except (RuntimeError, TypeError):
            return  # not every kernel knows it
        if not bool(torch.isfinite(low).all()):
            fail("the output in bfloat16 holds NaN or infinity")

    def check_padding(self) -> None:
        longest = max(range(len(self.lengths)), key=lambda i: self.lengths[i])
        others = [graph for i, graph in enumerate(self.graphs) if i != longest]
        spans = [span for i, span in enumerate(self.spans()) if i != longest]
        want = self.run_on(others)
        got = torch.cat([self.run_on(self.graphs)[span] for span in spans])
        same(got, want, "beside a longer graph")

    def check_separate_graphs(self) -> None:
        want = torch.cat([self.run_on([graph]) for graph in self.graphs])
        same(self.run_on(self.graphs), want, "in a batch")
        same(self.mixer(self.graphs[0].x, self.graphs[0]), self.run_on(self.graphs[:1]), "without a batch")

    def permuted(self) -> tuple[list[Data], Tensor]:
        graphs, places, first = [], [], 0
        for i, graph in enumerate(self.graphs):
            count = graph.num_nodes
            order = torch.randperm(count, generator=stream(self.seed, 8, i))
            back = torch.empty_like(order).scatter_(0, order, torch.arange(count))
            moved = {name: graph[name][order] for name in ("x", "pos", "time", "order")}
            graphs.append(Data(edge_index=back[graph.edge_index], grid_size=graph.grid_size, num_nodes=count, **moved))
            places.append(order + first)
            first += count
        return graphs, torch.cat(places)

    def check_relabelling(self) -> None:
        graphs, order = self.permuted()
        same(self.run_on(graphs), self.run_on(self.graphs)[order], "after nodes were permuted with their places")

    def check_equivariance(self) -> None:
        graphs, order = self.permuted()
        for graph in graphs:
            graph.order, graph.time = torch.arange(graph.num_nodes), torch.arange(graph.num_nodes) * 2.0 + 0.5
        same(self.run_on(graphs), self.run_on(self.graphs)[order], "when tokens are read in another order")

    def influence(self, graphs: list[Data], row: int) -> Tensor:
        """``[N]`` how much the output of a token depends on each input token."""
        x = Batch.from_data_list(graphs).x.requires_grad_()
        out = self.run_on(graphs, x=x)[row]
        weights = self.random(out.numel(), salt=5)
        (found,) = torch.autograd.grad((out * weights).sum(), x, allow_unused=True)
        return torch.zeros(x.size(0)) if found is None else found.abs().sum(1)

    def check_isolation(self) -> None:
        for i, span in enumerate(self.spans()):
            found = self.influence(self.graphs, span.stop - 1)
            found[span] = 0
            if bool((found != 0).any()):
                fail(f"a token of graph {i} depends on token {int(found.nonzero()[0])} of another graph")

    def check_causality(self) -> None:
        longest = max(self.graphs, key=lambda graph: graph.num_nodes)
        for row in range(longest.num_nodes):
            later = self.influence([longest], row)[row + 1 :]
            if bool((later != 0).any()):
                fail(f"token {row} depends on token {row + 1 + int(later.nonzero()[0])}, which is read after it")

    def check_reach(self) -> None:
        if self.mixer.edges != "ignored" or self.mixer.position == "grid":
            return
        longest = max(self.graphs, key=lambda graph: graph.num_nodes)
        count = longest.num_nodes
        rows = [count - 1] if self.mixer.causal else [0, count // 2, count - 1]
        found = torch.stack([self.influence([longest], row) for row in rows]).sum(0)
        if bool((found == 0).any()):
            fail(f"no output asked for depends on token {int((found == 0).nonzero()[0])}, which it may read")

    def check_sizes(self) -> None:
        for length in (1, 2):
            if not bool(torch.isfinite(self.run_on([self.graph(length, 20)])).all()):
                fail(f"the output of a graph of {length} tokens holds NaN or infinity")

    def check_empty(self) -> None:
        want = self.run_on(self.graphs[:2])
        counts = [self.lengths[0], 0, self.lengths[1]]
        batch = Batch.from_data_list(self.graphs[:2])
        first = torch.tensor([0, *counts]).cumsum(0)
        sizes = torch.cat([batch.grid_size[:1], torch.tensor([[1, 3]]), batch.grid_size[1:]])
        fields = {name: batch[name] for name in ("order", "pos", "time", "edge_index")}
        among = Data(ptr=first, grid_size=sizes, num_nodes=batch.num_nodes, **fields)
        same(self.mixer(batch.x, among), want, "with a graph without tokens between them")
        fields = {name: value[..., :0] if name == "edge_index" else value[:0] for name, value in fields.items()}
        nothing = Data(ptr=first[:1], grid_size=sizes[:0], num_nodes=0, **fields)
        out = self.mixer(batch.x[:0], nothing)
        if list(out.shape) != [0, self.mixer.out_channels]:
            fail(f"no tokens must give [0, {self.mixer.out_channels}] (got {list(out.shape)})")

    def check_last(self) -> None:
        graphs, _ = self.permuted()
        rows = [span.start + int(graph.order.argmax()) for span, graph in zip(self.spans(), graphs, strict=True)]
        batch = Batch.from_data_list(graphs)
        same(self.mixer.last(batch.x, batch), self.mixer(batch.x, batch)[rows], "of the last tokens")

    def check_streaming(self) -> None:
        length = max(self.lengths)
        graphs = [self.graph(length, salt) for salt in (30, 31)]
        want = self.run_on(graphs).view(2, length, -1)
        x = torch.stack([graph.x for graph in graphs], 1)
        state, rows = None, []
        for t in range(length):
            out, state = self.mixer.step(x[t], state)
            rows.append(out)
        same(torch.stack(rows, 1), want, "token by token")

    def check_gradients(self) -> None:
        mixer = self.made()
        x = Batch.from_data_list(self.graphs).x.requires_grad_()
        out = self.run_on(self.graphs, mixer, x)
        if out.requires_grad:
            (out * self.random(*out.shape, salt=6)).sum().backward()
        for name, value in [("x", x), *mixer.named_parameters()]:
            if value.grad is None or not bool(torch.isfinite(value.grad).all()):
                fail(f"{name} gets {'no' if value.grad is None else 'an infinite'} gradient")

    def check_gradcheck(self) -> None:
        graphs = [self.graph(length, 40 + length) for length in (2, 3)]
        x = Batch.from_data_list(graphs).x.requires_grad_()
        if not torch.autograd.gradcheck(lambda x: self.run_on(graphs, x=x), (x,), raise_exception=False):
            fail("the gradient of x is not that of finite differences")

    def check_deterministic(self) -> None:
        one, two = self.run_on(self.graphs, self.made()), self.run_on(self.graphs, self.made())
        if not torch.equal(one, two):
            fail("two mixers of one seed give different outputs")

    def check_inputs_unchanged(self) -> None:
        batch = Batch.from_data_list(self.graphs)
        before = {name: value.clone() for name, value in batch.to_dict().items() if isinstance(value, Tensor)}
        self.mixer(batch.x, batch)
        for name, value in before.items():
            if not torch.equal(value, batch[name]):
                fail(f"{name} was written to")

    def check_state_dict(self) -> None:
        fresh = self.make().double().eval()
        fresh.load_state_dict(self.mixer.state_dict())
        same(self.run_on(self.graphs, fresh), self.run_on(self.graphs), "after a round trip of state_dict")

    def check_pickle(self) -> None:
        for other in (pickle.loads(pickle.dumps(self.mixer)), copy.deepcopy(self.mixer)):
            same(self.run_on(self.graphs, other), self.run_on(self.graphs), "after a copy")

    def check_device(self) -> None:
        refuse_hidden_tensors(self.mixer)
        if torch.cuda.is_available():
            batch = Batch.from_data_list(self.graphs).to("cuda")
            out = copy.deepcopy(self.mixer).cuda()(batch.x, batch)
            same(out.cpu(), self.run_on(self.graphs), "on a GPU")

    def check_reset_parameters(self) -> None:
        mixer: Any = scrambled(self.made())
        mixer.reset_parameters()
        for name, value in mixer.named_parameters():
            if not bool(torch.isfinite(value).all()):
                fail(f"reset_parameters leaves {name} as it was")

    def check_repr(self) -> None:
        if type(self.mixer).__name__ not in repr(self.mixer):
            fail("repr does not name the class")

    def refused(self, what: str, *arguments: Any) -> None:
        try:
            self.mixer(*arguments)
        except (ValueError, TypeError) as error:
            if self.strict and "got" not in str(error) and " has " not in str(error):
                fail(f"{what}: the message does not tell what was got: {error}")
            return
        fail(f"{what} is accepted")

    def check_wrong_width(self) -> None:
        x = self.graphs[0].x
        self.refused("a column too many", torch.cat([x, x[:, :1]], 1), self.graphs[0])
        self.refused("a vector", x[:, 0], self.graphs[0])

    def check_wrong_tokens(self) -> None:
        x = self.graphs[0].x
        count = x.size(0)
        self.refused("a ptr of too few tokens", x, torch.tensor([0, count - 1]))
        self.refused("a list", x, [0, count])
        unsorted = Data(x=x, batch=torch.tensor([1, *[0] * (count - 1)]), num_nodes=count)
        self.refused("a batch that is not ascending", x, unsorted)
