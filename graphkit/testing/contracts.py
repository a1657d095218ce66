"""One contract suite for graph layers, as scikit-learn has one for estimators."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graphkit.testing.suite import (
    Suite,
    Violation,
    check_names,
    fail,
    own_random_numbers,
    refuse_hidden_tensors,
    same,
    scrambled,
)
from graphkit.utils.seed import stream

#: What :func:`check_layer` checks, in this order.
LAYER_CHECKS = (
    "shape",
    "dtype",
    "permutation",
    "edge_order",
    "separate_graphs",
    "isolated_nodes",
    "no_edges",
    "one_node",
    "duplicate_edges",
    "self_loops",
    "memory_layout",
    "nan_stays_local",
    "deterministic",
    "eval_keeps_state",
    "inputs_unchanged",
    "gradients",
    "gradcheck",
    "reset_parameters",
    "state_dict",
    "pickle",
    "deepcopy",
    "device",
    "repr",
    "wrong_width",
    "wrong_ids",
    "compile",
)
#: What :func:`check_decoder` checks, in this order.
DECODER_CHECKS = (*LAYER_CHECKS[:-1], "pair_order", "no_pairs", "symmetric", "compile")


def check_layer(
    layer: nn.Module | Callable[[], nn.Module],
    in_channels: int | None = None,
    *,
    call: Callable[..., Tensor] | None = None,
    set_semantics: bool = False,
    strict_errors: bool = False,
    compile: bool = False,
    skip: Collection[str] = (),
    seed: int = 0,
) -> list[str]:
    """Check a layer ``layer(x, edge_index) -> [N, out]`` on small graphs. Takes about a second.

    ============================ =======================================================================================
    check                        what must hold
    ============================ =======================================================================================
    shape, dtype                 a finite matrix with one row a node; float64 after ``.double()``
    permutation, edge_order      relabelled nodes give relabelled rows; the order of the edges does not matter
    separate_graphs              two graphs in one batch give what they give one by one
    isolated_nodes, no_edges,    finite there, and one more node without edges changes no other row
    one_node
    duplicate_edges, self_loops  finite, order does not matter; duplicates change nothing with ``set_semantics``
    memory_layout                transposed and strided inputs give the same
    nan_stays_local              NaN reaches the output of its own graph and of no other
    deterministic                the same seed gives the same weights and, with dropout, the same output
    eval_keeps_state             in eval mode nothing is drawn at random and nothing is remembered
    inputs_unchanged             no input is written to
    gradients                    every parameter gets one; all are finite, also at zero features and without edges
    gradcheck                    they agree with finite differences
    reset_parameters             draws every parameter anew
    state_dict, pickle, deepcopy a round trip gives the same output and shares no memory
    device                       no tensor or module is hidden from ``.to(device)``; a GPU, if any, gives the same
    repr                         names the class and its ``in_channels``
    wrong_width, wrong_ids       an error, not a number; only where there is an ``in_channels`` to differ from
    compile                      ``torch.compile(fullgraph=True)`` gives the same output and gradients, and can train
    ============================ =======================================================================================

    Args:
        layer: the module, which is copied and stays as it is, or better a function without arguments that makes one.
        in_channels: width of ``x``; ``layer.in_channels`` if None, and 8 if there is none.
        call: how to call it, ``call(layer, x, edge_index)``, if not ``layer(x, edge_index)``.
        set_semantics: the layer promises that a repeated edge counts once.
        strict_errors: wrong input must raise a ``ValueError``, ``TypeError`` or ``IndexError`` that tells what was got.
        compile: the layer promises to compile without graph breaks.
        skip: checks to leave out, for promises that the layer does not make.
        seed: seed of the graphs, features and weights.

    Returns:
        The names of the checks that ran.

    Raises:
        AssertionError: a check failed; the message names it and says how far off the layer was.
        ValueError: an unknown name in ``skip``.

    Example:
        >>> from torch_geometric.nn import GCNConv
        >>> "permutation" in check_layer(lambda: GCNConv(8, 16))
        True
    """
    skipped = {*skip} if compile else {*skip, "compile"}
    return _Contract(layer, in_channels, call, False, set_semantics, strict_errors, seed).check(LAYER_CHECKS, skipped)


def check_decoder(
    decoder: nn.Module | Callable[[], nn.Module],
    in_channels: int | None = None,
    *,
    call: Callable[..., Tensor] | None = None,
    symmetric: bool = False,
    set_semantics: bool = False,
    strict_errors: bool = False,
    compile: bool = False,
    skip: Collection[str] = (),
    seed: int = 0,
) -> list[str]:
    """Check a decoder ``decoder(z, edge_index, edge_label_index) -> [B, out]`` of pairs of nodes.

    The checks are those of :func:`check_layer`, read for pairs (relabelled nodes leave the scores as they are), and:

    - pair_order: the score of a pair does not depend on the other pairs;
    - no_pairs: none give ``[0, out]``;
    - symmetric: the score of (i, j) is that of (j, i), with ``symmetric=True``.

    Args:
        decoder: the module or a function that makes one; also a model of encoder and decoder.
        in_channels: width of ``z``; ``decoder.in_channels`` if None, and 8 if there is none.
        call: how to call it, ``call(decoder, z, edge_index, edge_label_index)``.
        symmetric: the decoder promises not to tell the two ends of a pair apart.
        set_semantics, strict_errors, compile, skip, seed: as :func:`check_layer`.

    Returns:
        The names of the checks that ran.

    Raises:
        AssertionError: a check failed; the message names it and says how far off the decoder was.
        ValueError: an unknown name in ``skip``.
    """
    skipped = {*skip}
    skipped |= set() if compile else {"compile"}
    skipped |= set() if symmetric else {"symmetric"}
    return _Contract(decoder, in_channels, call, True, set_semantics, strict_errors, seed).check(
        DECODER_CHECKS, skipped
    )


@dataclass(frozen=True)
class _Example:
    x: Tensor
    edge_index: Tensor
    pairs: Tensor

    @property
    def num_nodes(self) -> int:
        return self.x.size(0)

    def relabelled(self, order: Tensor) -> _Example:
        """Node ``v`` becomes node ``order[v]``."""
        x = torch.empty_like(self.x)
        x[order] = self.x
        return _Example(x, order[self.edge_index], order[self.pairs])

    def joined(self, other: _Example) -> _Example:
        n = self.num_nodes
        return _Example(
            torch.cat([self.x, other.x]),
            torch.cat([self.edge_index, other.edge_index + n], 1),
            torch.cat([self.pairs, other.pairs + n], 1),
        )


class _Contract(Suite):
    def __init__(
        self,
        module: nn.Module | Callable[[], nn.Module],
        in_channels: int | None,
        call: Callable[..., Tensor] | None,
        pairs: bool,
        set_semantics: bool,
        strict_errors: bool,
        seed: int,
    ) -> None:
        self.module, self.call, self.pairs = module, call, pairs
        self.set_semantics, self.strict_errors, self.seed = set_semantics, strict_errors, seed
        self.dtype = torch.float64
        with own_random_numbers():
            made = self._build(seed)
        self.name = type(made).__name__
        known = getattr(made, "in_channels", None)
        known = known[0] if isinstance(known, tuple) else known
        declared = in_channels or known
        self.width_is_fixed = isinstance(declared, int) and declared > 0
        self.width = declared if isinstance(declared, int) and declared > 0 else 8

    def check(self, names: tuple[str, ...], skip: set[str]) -> list[str]:
        check_names(skip, DECODER_CHECKS)
        if "dtype" in skip:
            self.dtype = torch.float32
        if not self.width_is_fixed:
            skip = skip | {"wrong_width"}
        return self.run([name for name in names if name not in skip])

    # What the checks share ------------------------------------------------------------------------------------------

    def _build(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return copy.deepcopy(self.module) if isinstance(self.module, nn.Module) else self.module()

    def make(self, seed: int | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        layer = self._build(self.seed if seed is None else seed)
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in layer.parameters()):
            with torch.no_grad():
                self.forward(layer, self.example(dtype=torch.float32))
        return layer.to(dtype or self.dtype).eval()

    def example(self, num_nodes: int = 9, key: int = 0, dtype: torch.dtype | None = None) -> _Example:
        """A connected undirected graph without loops or repeated edges, and pairs of which some are edges."""
        generator = stream(self.seed, key)
        chosen = torch.rand(num_nodes, num_nodes, generator=generator) < 0.3
        chosen |= torch.eye(num_nodes, dtype=torch.bool).roll(1, 1)
        half = chosen.triu(1).nonzero().t()
        x = torch.randn(num_nodes, self.width, generator=generator, dtype=torch.float64).to(dtype or self.dtype)
        ends = torch.randint(num_nodes, (2, 8), generator=generator)
        return _Example(x, torch.cat([half, half.flip(0)], 1), torch.cat([ends, half[:, :3]], 1))

    def forward(self, layer: nn.Module, example: _Example) -> Tensor:
        inputs = (example.x, example.edge_index, example.pairs)[: 3 if self.pairs else 2]
        out = layer(*inputs) if self.call is None else self.call(layer, *inputs)
        if not isinstance(out, Tensor):
            fail(f"the output must be a tensor (got {type(out).__name__})")
        rows = example.pairs.size(1) if self.pairs else example.num_nodes
        if out.dim() != 2 or out.size(0) != rows:
            fail(f"the output must have shape [{rows}, out], a row a {self.row} (got {list(out.shape)})")
        return out

    @property
    def row(self) -> str:
        return "pair" if self.pairs else "node"

    def evaluate(self, layer: nn.Module, example: _Example) -> Tensor:
        with torch.no_grad():
            return self.forward(layer, example)

    def finite(self, layer: nn.Module, example: _Example, where: str) -> Tensor:
        out = self.evaluate(layer, example)
        bad = int((~torch.isfinite(out)).sum())
        if bad:
            fail(f"{bad} of {out.numel()} outputs are not finite {where}")
        return out

    # Numbers --------------------------------------------------------------------------------------------------------

    def check_shape(self) -> None:
        self.finite(self.make(dtype=torch.float32), self.example(dtype=torch.float32), "on a small graph")

    def check_dtype(self) -> None:
        for dtype in (torch.float32, torch.float64):
            out = self.evaluate(self.make(dtype=dtype), self.example(dtype=dtype))
            if out.dtype != dtype:
                fail(f"the output is {out.dtype} for {dtype} features and weights")

    def check_permutation(self) -> None:
        self._relabel(self.example(), "when nodes are relabelled")

    def _relabel(self, example: _Example, when: str) -> None:
        layer = self.make()
        order = torch.randperm(example.num_nodes, generator=stream(self.seed, 1))
        got = self.evaluate(layer, example.relabelled(order))
        same(got if self.pairs else got[order], self.evaluate(layer, example), when)

    def check_edge_order(self) -> None:
        layer, example = self.make(), self.example()
        order = torch.randperm(example.edge_index.size(1), generator=stream(self.seed, 1))
        shuffled = replace(example, edge_index=example.edge_index[:, order])
        same(self.evaluate(layer, shuffled), self.evaluate(layer, example), "when edges are shuffled")

    def check_separate_graphs(self) -> None:
        layer, first, second = self.make(), self.example(7, 1), self.example(5, 2)
        alone = torch.cat([self.evaluate(layer, first), self.evaluate(layer, second)])
        same(self.evaluate(layer, first.joined(second)), alone, "when two graphs are in one batch")

    def check_isolated_nodes(self) -> None:
        layer, example = self.make(), self.example()
        more = replace(example, x=torch.cat([example.x, example.x[:1]]))
        out = self.finite(layer, more, "with an isolated node")
        rows = out.size(0) if self.pairs else example.num_nodes
        same(out[:rows], self.evaluate(layer, example), "for the other nodes when an isolated node is added")
        loose = torch.full_like(example.pairs, example.num_nodes)
        self.finite(layer, replace(more, pairs=loose), "for an isolated node")

    def check_no_edges(self) -> None:
        example = self.example()
        self.finite(self.make(), replace(example, edge_index=example.edge_index[:, :0]), "without edges")

    def check_one_node(self) -> None:
        example = self.example()
        none = torch.zeros(2, 0, dtype=torch.long)
        self.finite(self.make(), _Example(example.x[:1], none, torch.zeros(2, 1, dtype=torch.long)), "for one node")

    def check_duplicate_edges(self) -> None:
        layer, example = self.make(), self.example()
        repeated = replace(example, edge_index=example.edge_index.repeat_interleave(2, dim=1)[:, :-1])
        out = self.finite(layer, repeated, "with duplicate edges")
        self._relabel(repeated, "when nodes of a graph with duplicate edges are relabelled")
        if self.set_semantics:
            same(out, self.evaluate(layer, example), "when edges are repeated, which must count once")

    def check_self_loops(self) -> None:
        example = self.example()
        loops = torch.arange(0, example.num_nodes, 2).repeat(2, 1)
        looped = replace(example, edge_index=torch.cat([example.edge_index, loops], 1))
        self.finite(self.make(), looped, "with self-loops")
        self._relabel(looped, "when nodes of a graph with self-loops are relabelled")

    def check_memory_layout(self) -> None:
        layer, example = self.make(), self.example()
        x = example.x.t().contiguous().t()
        edge_index = example.edge_index.repeat_interleave(2, dim=1)[:, ::2]
        pairs = example.pairs.t().contiguous().t()
        got = self.evaluate(layer, _Example(x, edge_index, pairs))
        same(got, self.evaluate(layer, example), "when the inputs are strided")

    def check_nan_stays_local(self) -> None:
        layer, first, second = self.make(), self.example(7, 1), self.example(5, 2)
        alone = self.evaluate(layer, first)
        out = self.evaluate(layer, first.joined(replace(second, x=torch.full_like(second.x, float("nan")))))
        same(out[: alone.size(0)], alone, "when another graph of the batch is NaN")
        if bool(torch.isfinite(out[alone.size(0) :]).all()):
            fail("NaN features gave finite numbers")

    def check_deterministic(self) -> None:
        outs = []
        for _ in range(2):
            layer = self.make().train()
            torch.manual_seed(self.seed + 1)
            outs.append(self.evaluate(layer, self.example()))
        same(outs[1], outs[0], "when made and trained twice under one seed")

    def check_eval_keeps_state(self) -> None:
        layer, example = self.make(), self.example()
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        first = self.evaluate(layer, example)
        self.evaluate(layer, self.example(key=1))
        same(self.evaluate(layer, example), first, "when called again in eval mode")
        for name, value in layer.state_dict().items():
            if not torch.equal(value, before[name]):
                fail(f"'{name}' changed by a call in eval mode")

    def check_inputs_unchanged(self) -> None:
        for training in (False, True):
            layer, example = self.make().train(training), self.example()
            tensors = {"x": example.x, "edge_index": example.edge_index, "edge_label_index": example.pairs}
            before = {name: (value.clone(), value._version) for name, value in tensors.items()}
            self.evaluate(layer, example)
            for name, value in tensors.items():
                if not torch.equal(value, before[name][0]) or value._version != before[name][1]:
                    fail(f"{name} was written to")

    # Gradients ------------------------------------------------------------------------------------------------------

    def check_gradients(self) -> None:
        example = self.example()
        cases = {
            "": example,
            " at zero features": replace(example, x=torch.zeros_like(example.x)),
            " without edges": replace(example, edge_index=example.edge_index[:, :0]),
        }
        for case, given in cases.items():
            layer = self.make().train()
            x = given.x.clone().requires_grad_()
            out = self.forward(layer, replace(given, x=x))
            if not out.requires_grad:
                fail(f"the output has no gradient{case}")
            (out * torch.randn_like(out)).sum().backward()
            gradients = {"x": x.grad, **{n: p.grad for n, p in layer.named_parameters() if p.requires_grad}}
            for name, gradient in gradients.items():
                if gradient is None:
                    if not case:
                        fail(f"'{name}' got no gradient")
                elif not bool(torch.isfinite(gradient).all()):
                    bad = int((~torch.isfinite(gradient)).sum())
                    fail(f"{bad} of {gradient.numel()} gradients of '{name}' are not finite{case}")

    def check_gradcheck(self) -> None:
        layer, example = self.make(dtype=torch.float64), self.example(dtype=torch.float64)
        x = example.x.clone().requires_grad_()
        torch.autograd.gradcheck(
            lambda value: self.forward(layer, replace(example, x=value)), x, fast_mode=True, nondet_tol=1e-9
        )

    # Being a module -------------------------------------------------------------------------------------------------

    def check_reset_parameters(self) -> None:
        layer = self.make()
        if not callable(getattr(layer, "reset_parameters", None)):
            fail("there is no reset_parameters()")
        drawn = []
        for _ in range(2):
            scrambled(layer)
            torch.manual_seed(self.seed)
            layer.reset_parameters()  # type: ignore[operator]
            for name, value in layer.named_parameters():
                if not bool(torch.isfinite(value).all()):
                    fail(f"reset_parameters() left '{name}' as it was")
            drawn.append(self.finite(layer, self.example(), "after reset_parameters()"))
        same(drawn[1], drawn[0], "when reset twice under one seed")

    def check_state_dict(self) -> None:
        layer, example = self.make(), self.example()
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other = self.make(self.seed + 1)
        scrambled(other).load_state_dict(torch.load(file, weights_only=True))
        same(self.evaluate(other, example), self.evaluate(layer, example), "after load_state_dict")

    def check_pickle(self) -> None:
        layer, example = self.make(), self.example()
        self._copied(layer, pickle.loads(pickle.dumps(layer)), example, "after pickling")

    def check_deepcopy(self) -> None:
        layer, example = self.make(), self.example()
        self._copied(layer, copy.deepcopy(layer), example, "after deepcopy")

    def _copied(self, layer: nn.Module, other: nn.Module, example: _Example, when: str) -> None:
        want = self.evaluate(layer, example)
        same(self.evaluate(other, example), want, when)
        scrambled(other)
        same(self.evaluate(layer, example), want, f"when the copy's weights change {when}")

    def check_device(self) -> None:
        refuse_hidden_tensors(self.make())
        if torch.cuda.is_available():
            layer, example = self.make(), self.example()
            want = self.evaluate(layer, example)
            moved = _Example(example.x.cuda(), example.edge_index.cuda(), example.pairs.cuda())
            out = self.evaluate(layer.cuda(), moved)
            if not out.is_cuda:
                fail(f"the output is on {out.device} for inputs on the GPU")
            same(out.cpu(), want, "on the GPU")

    def check_repr(self) -> None:
        layer = self.make()
        text = repr(layer)
        size = getattr(layer, "in_channels", None)
        wanted = [self.name, *([str(size)] if isinstance(size, int) and size > 0 else [])]
        for part in wanted:
            if part not in text:
                fail(f"repr must tell {part!r} (got {text!r})")

    # Bad input ------------------------------------------------------------------------------------------------------

    def check_wrong_width(self) -> None:
        example = self.example()
        wide = replace(example, x=torch.cat([example.x, example.x[:, :1]], 1))
        self._refuses(wide, self.width + 1, f"features of width {self.width + 1} instead of {self.width}")

    def check_wrong_ids(self) -> None:
        example = self.example()
        for bad in (example.num_nodes, -1):
            edge_index = example.edge_index.clone()
            edge_index[0, 2] = bad
            self._refuses(replace(example, edge_index=edge_index), bad, f"node id {bad} in edge_index")
            if self.pairs:
                pairs = example.pairs.clone()
                pairs[1, 1] = bad
                self._refuses(replace(example, pairs=pairs), bad, f"node id {bad} in edge_label_index")

    def _refuses(self, example: _Example, got: int, what: str) -> None:
        layer = self.make()
        try:
            self.evaluate(layer, example)
        except Violation:
            raise
        except Exception as error:
            clear = isinstance(error, (ValueError, TypeError, IndexError)) and str(got) in str(error)
            if self.strict_errors and not clear:
                fail(f"{what} must raise a clear error that tells {got} (got {type(error).__name__}: {error})")
            return
        fail(f"{what} went through without an error")

    # Pairs ----------------------------------------------------------------------------------------------------------

    def check_pair_order(self) -> None:
        layer, example = self.make(), self.example()
        order = torch.randperm(example.pairs.size(1), generator=stream(self.seed, 1))[:-2]
        got = self.evaluate(layer, replace(example, pairs=example.pairs[:, order]))
        same(got, self.evaluate(layer, example)[order], "when pairs are shuffled and some left out")

    def check_no_pairs(self) -> None:
        example = self.example()
        self.evaluate(self.make(), replace(example, pairs=example.pairs[:, :0]))

    def check_symmetric(self) -> None:
        layer, example = self.make(), self.example()
        got = self.evaluate(layer, replace(example, pairs=example.pairs.flip(0)))
        same(got, self.evaluate(layer, example), "when the two ends are exchanged")

    # Compilation ----------------------------------------------------------------------------------------------------

    def check_compile(self) -> None:
        torch.compiler.reset()
        layer, example = self.make(), self.example()
        found = []
        # No code is generated: what may break is the tracing, and that takes seconds less.
        for module in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
            layer.zero_grad()
            x = example.x.clone().requires_grad_()
            out = self.forward(module, replace(example, x=x))  # type: ignore[arg-type]
            out.sum().backward()
            gradients = [p.grad for p in (x, *layer.parameters()) if p.grad is not None]
            found.append([out.detach(), *(gradient.clone() for gradient in gradients)])
        for place, (got, want) in enumerate(zip(found[1], found[0], strict=True)):
            same(got, want, f"when compiled ({'gradients' if place else 'output'})")
        # Compiled dropout draws other numbers, so training is only traced.
        torch.compiler.reset()
        trained = torch.compile(layer.train(), fullgraph=True, backend="aot_eager")
        x = example.x.clone().requires_grad_()
        self.forward(trained, replace(example, x=x)).sum().backward()  # type: ignore[arg-type]
