"""What the contract suites share: named checks that run one by one, each with random numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn


class Violation(Exception):
    """A promise that was not kept."""


def fail(message: str) -> NoReturn:
    raise Violation(message)


class Suite:
    """Methods ``check_<name>`` that call :func:`fail`; ``name`` is what is checked."""

    name: str

    def run(self, chosen: Sequence[str]) -> list[str]:
        """Run the checks in this order; the first that fails is an AssertionError that names it."""
        for check in chosen:
            with own_random_numbers():
                try:
                    getattr(self, f"check_{check}")()
                except Violation as violation:
                    raise AssertionError(f"{self.name} fails the check '{check}': {violation}") from None
                except Exception as error:
                    reason = f"it raised {type(error).__name__}: {error}"
                    raise AssertionError(f"{self.name} fails the check '{check}': {reason}") from error
        return list(chosen)


def own_random_numbers() -> Any:
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def check_names(skip: set[str], names: Sequence[str]) -> None:
    """ValueError if ``skip`` holds something else."""
    unknown = sorted(skip - {*names})
    if unknown:
        raise ValueError(f"skip must name checks among {', '.join(names)} (got {', '.join(unknown)})")


def same(got: Tensor, want: Tensor, when: str) -> None:
    """Fail unless the two agree to 1e-9 (1e-4 in single precision) of the largest number."""
    if got.shape != want.shape:
        fail(f"the shape is {list(got.shape)} instead of {list(want.shape)} {when}")
    if not want.numel():
        return
    limit = 1e-9 if want.dtype == torch.float64 else 1e-4
    error = float(((got - want).abs().max() / want.abs().max().clamp(min=1)).detach())
    if not error <= limit:
        fail(f"the output is off by {error:.2g} (allowed {limit:g}) {when}")


def scrambled(module: nn.Module) -> nn.Module:
    """Every floating parameter NaN."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.fill_(float("nan"))
    return module


def refuse_hidden_tensors(module: nn.Module) -> None:
    """Fail if ``.to(device)`` would miss a tensor or a module."""
    own = vars(nn.Module())
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            inside = value.values() if isinstance(value, dict) else value
            items = inside if isinstance(value, (list, tuple, dict)) else [value]
            hidden = next((item for item in items if isinstance(item, (Tensor, nn.Module))), None)
            if name not in own and hidden is not None:
                kind = "register_buffer" if isinstance(hidden, Tensor) else "a ModuleList or ModuleDict"
                fail(f"'{path + '.' if path else ''}{name}' does not move with the module: use {kind}")
