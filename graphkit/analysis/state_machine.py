"""What a language model knows of a machine that wrote its text, and whether its codes can put it into another state."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphkit.datasets.state_machine import read_states
from graphkit.nn.quantize import codebooks, codes_forced
from graphkit.ops.tokens import TokenLayout
from graphkit.utils.checks import check_int
from graphkit.utils.seed import stream


@torch.no_grad()
def valid_transitions(model: nn.Module, data: Data, walks: int = 64, length: int = 10, seed: int = 0) -> float:
    """Share of the steps in text that a model writes itself which the machine could have made.

    Args:
        model: ``model(x, tokens)`` with logits for the next token, in eval mode.
        data: of :func:`~graphkit.datasets.state_machine.state_machine_text`.
        walks: texts written, each after a state of the machine.
        length: states of each; O(length² width²) tokens are read.
        seed: seed of the first states and of the sampling.

    Returns:
        a share in [0, 1]; steps from and to what is no state are wrong.
    """
    allowed, base, width = _machine(data)
    generator = stream(seed)
    state = torch.randint(len(allowed), (check_int(walks, "walks", 1),), generator=generator)
    text = _written(state.to(data.x.device), width, base)
    for _ in range(check_int(length, "length", 1) * width):
        prob = _last_logits(model, text).softmax(-1)
        # Drawn on the CPU, so that all devices write the same.
        token = torch.multinomial(prob.float().cpu(), 1, generator=generator).to(text.device)
        text = torch.cat([text, token], 1)
    states = read_states(text, width, base)
    before, after = states[:, :-1], states[:, 1:]
    known = (before >= 0) & (after >= 0) & (before < len(allowed)) & (after < len(allowed))
    right = known & allowed[before.where(known, 0), after.where(known, 0)]
    return float(right.float().mean())


@torch.no_grad()
def state_codes(model: nn.Module, data: Data, places: Tensor, context: int) -> tuple[dict[str, Tensor], Tensor]:
    """The codes at ends of states: what the model has noted when a state has just been read.

    Args:
        model: a model with codebooks, in eval mode.
        data: of :func:`~graphkit.datasets.state_machine.state_machine_text`.
        places: ``[N]`` numbers of states in the walk.
        context: tokens read before and with each, a multiple of the tokens of a state.

    Returns:
        for each codebook ``[N, groups, k]`` codes, and ``[N]`` the states.
    """
    _, _, width = _machine(data)
    text = _windows(data, places, context, width)
    model(text.reshape(-1), _layout(text))
    last = torch.arange(1, len(text) + 1, device=text.device) * text.size(1) - 1
    found = {name: layer.last_ids[last] for name, layer in codebooks(model).items() if layer.last_ids is not None}
    return found, data.state[places * width]


@torch.no_grad()
def state_control(model: nn.Module, data: Data, places: Tensor, context: int, seed: int = 0) -> tuple[float, float]:
    """Put a model that has read one state into another by its codes.

    The codes of all codebooks at the tokens of the latest state, and at the digits written since, are those of a
    reader of another text, which ends with another state; the text itself stays.

    Args:
        model: a model in eval mode; without codebooks nothing changes.
        data, places, context: as :func:`state_codes`.
        seed: seed of who gets whose codes.

    Returns:
        the probability of a next state that may follow the other state, and of one that may follow the state that was
        read, each among the next states that the two do not have in common.
    """
    allowed, base, width = _machine(data)
    read = _windows(data, places, context, width)
    other = read[torch.randperm(len(read), generator=stream(seed)).to(read.device)]
    state, wanted = (read_states(text[:, -width:], width, base)[:, 0] for text in (read, other))
    prob = read.new_ones(len(read), 1, dtype=torch.float32)
    for digit in range(width - 1):
        number = torch.arange(base**digit, device=read.device)
        written = number[:, None] // base ** torch.arange(digit - 1, -1, -1, device=read.device) % base
        both = [
            torch.cat([text[:, None].expand(-1, len(number), -1), written.expand(len(text), -1, -1)], 2).flatten(0, 1)
            for text in (read, other)
        ]
        model(both[1].reshape(-1), _layout(both[1]))
        ids = {name: layer.last_ids for name, layer in codebooks(model).items() if layer.last_ids is not None}
        where = torch.arange(both[0].size(1), device=read.device) >= context - width
        forced = codes_forced(model, ids, where.repeat(len(both[0]))) if ids else nullcontext()
        with forced:
            step = _last_logits(model, both[0]).softmax(-1)[:, :base]
        prob = (prob.reshape(-1, 1) * step).view(len(read), -1)
    prob = prob[:, : len(allowed)]
    follows, stays = allowed[wanted], allowed[state]
    # Next states that both may have tell nothing, and states with the same ones cannot be told apart.
    rows = (follows ^ stays).any(1) & (state != wanted)
    prob = (prob * ~(follows & stays))[rows]
    if not len(prob):
        raise ValueError("places must hold texts that end with different states")
    prob = prob / prob.sum(1, keepdim=True).clamp(min=1e-9)
    return float((prob * follows[rows]).sum(1).mean()), float((prob * stays[rows]).sum(1).mean())


def _machine(data: Data) -> tuple[Tensor, int, int]:
    """``[S, S]`` which state may follow which, the base of the digits, and the tokens of a state."""
    states = int(data.transitions.max()) + 1
    allowed = torch.zeros(states, states, dtype=torch.bool, device=data.transitions.device)
    allowed[data.transitions[0], data.transitions[1]] = True
    return allowed, int(data.x[data.width - 1]), int(data.width)


def _written(state: Tensor, width: int, base: int) -> Tensor:
    """``[B, width]`` tokens of states."""
    place = base ** torch.arange(width - 2, -1, -1, device=state.device)
    digits = state[:, None] // place % base
    return torch.cat([digits, torch.full_like(state, base)[:, None]], 1)


def _windows(data: Data, places: Tensor, context: int, width: int) -> Tensor:
    """``[N, context]`` texts that end with the states at ``places`` of the walk."""
    if context % width or context < width:
        raise ValueError(f"context must be a multiple of {width}, the tokens of a state (got {context})")
    if places.numel() == 0 or int(places.min()) < context // width - 1 or int(places.max()) >= data.x.numel() // width:
        raise ValueError(f"places must be states with {context} tokens up to their ends in the text")
    end = (places + 1) * width
    return data.x[end[:, None] - context + torch.arange(context, device=data.x.device)]


def _layout(text: Tensor) -> TokenLayout:
    return TokenLayout(torch.arange(len(text) + 1, device=text.device) * text.size(1))


def _last_logits(model: nn.Module, text: Tensor) -> Tensor:
    return model(text.reshape(-1), _layout(text)).view(*text.shape, -1)[:, -1]
