"""The training loop: a thin layer over Lightning Fabric that can be killed at any moment and resumed exactly."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_range
from graphkit.utils.io import atomic_write
from graphkit.utils.seed import seed_everything, stream


@dataclass
class FitResult:
    """What a training run found.

    Attributes:
        best: for each metric the epoch of the best validation value, that value, and the test value of that epoch.
        history: one row an epoch: epoch, loss, seconds and, where evaluated, ``valid/<metric>``.
        seconds: time of training and evaluation, over all sessions of a resumed run.
    """

    best: dict[str, dict[str, float]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def test(self, metric: str) -> float:
        """Test value at the epoch with the best validation value of ``metric``."""
        return self.best[metric]["test"]


class Trainer:
    """Trains a model on a task.

    The epoch is chosen by validation, for each metric by itself; the test split is scored only at an epoch that is a
    new best. All random numbers of an epoch follow from ``seed``, the epoch and the rank, so a run resumed from the
    checkpoint of its last whole epoch goes on exactly as if it had never stopped.

    Args:
        max_epochs: epochs to train; 0 only evaluates.
        fabric: a :class:`lightning_fabric.Fabric` (device, precision, strategy); None makes one for ``device``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; only without ``fabric``.
        precision: Fabric's precision, such as ``"32-true"`` or ``"bf16-mixed"``; only without ``fabric``.
        seed: seed of dropout and everything else the model draws.
        eval_every: epochs between evaluations.
        patience: stop after this many evaluations without a better ``task.monitor``; None never.
        clip_grad_norm: largest gradient norm of each of the optimizer's parameter groups.
        folder: where ``checkpoint.pt`` and ``history.csv`` go; None keeps nothing.
        resume: continue from ``folder/checkpoint.pt`` if it is there.
        tensorboard: also log for TensorBoard (extra ``tensorboard``) under ``folder``.
        progress: show a progress bar.
        description: label of the progress bar.

    Raises:
        ValueError: an argument out of range; a loss that is not finite; a checkpoint that is damaged or of another run.

    Example:
        >>> trainer = Trainer(max_epochs=100, patience=20)  # doctest: +SKIP
        >>> result = trainer.fit(model, task, torch.optim.Adam(model.parameters()))  # doctest: +SKIP
        >>> result.test("Hits@100")  # doctest: +SKIP
    """

    def __init__(
        self,
        max_epochs: int,
        *,
        fabric: Fabric | None = None,
        device: str = "auto",
        precision: Any = "32-true",
        seed: int = 0,
        eval_every: int = 1,
        patience: int | None = None,
        clip_grad_norm: float | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        tensorboard: bool = False,
        progress: bool = True,
        description: str = "",
    ) -> None:
        check_range(max_epochs, "max_epochs", 0)
        check_range(eval_every, "eval_every", 1)
        if patience is not None:
            check_range(patience, "patience", 1)
        if (resume or tensorboard) and folder is None:
            raise ValueError("folder must be given with resume or tensorboard (got None)")
        self.max_epochs, self.seed, self.eval_every, self.patience = max_epochs, seed, eval_every, patience
        self.clip_grad_norm = clip_grad_norm
        self.fabric = fabric or make_fabric(device, precision)
        self.folder = None if folder is None else Path(folder)
        self.resume, self.tensorboard = resume, tensorboard
        self.progress, self.description = progress, description

    def fit(
        self,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer | None = None,
        on_epoch_end: Callable[[int, dict[str, float]], None] | None = None,
    ) -> FitResult:
        """Train ``model`` in place and leave it with the weights of the best epoch of ``task.monitor``.

        Args:
            model: the module; moved to the trainer's device.
            task: the problem; moved too.
            optimizer: over the model's parameters; None evaluates a model that has nothing to train.
            on_epoch_end: called with the epoch and its row of the history.
        """
        fabric = self.fabric
        task = task.to(fabric.device)
        task.rank, task.world_size = fabric.global_rank, fabric.world_size
        result = FitResult()
        if optimizer is None:
            model.to(fabric.device)
            start = time.perf_counter()
            valid, test = task.evaluate(model, "valid"), task.evaluate(model, "test")
            result.best = {name: {"epoch": 0, "valid": valid[name], "test": test[name]} for name in valid}
            result.seconds = time.perf_counter() - start
            return result
        wrapped, optimizer = fabric.setup(model, optimizer)  # type: ignore[assignment]
        best_state = _copy_state(model)
        first, waited = 1, 0
        saved = self._load() if self.resume else None
        if saved is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            best_state, first, waited = saved["best_state"], saved["epoch"] + 1, saved["waited"]
            result = FitResult(saved["best"], saved["history"], saved["seconds"])
        writer = self._writer(first)
        steps = task.num_batches()
        bar = tqdm(
            total=self.max_epochs * steps,
            initial=(first - 1) * steps,
            desc=self.description,
            unit="step",
            leave=False,
            disable=not self.progress or fabric.global_rank > 0,
        )
        for epoch in range(first, self.max_epochs + 1):
            if self.patience is not None and waited >= self.patience:
                break
            start = time.perf_counter()
            row: dict[str, float] = {"epoch": epoch, "loss": self._epoch(wrapped, task, optimizer, epoch, bar)}
            if epoch % self.eval_every == 0 or epoch == self.max_epochs:
                better = self._evaluate(model, task, epoch, row, result)
                waited = 0 if task.monitor in better else waited + 1
                if task.monitor in better:
                    best_state = _copy_state(model)
                bar.set_postfix({"loss": f"{row['loss']:.3f}", task.monitor: f"{row['valid/' + task.monitor]:.2f}"})
            row["seconds"] = time.perf_counter() - start
            result.seconds += row["seconds"]
            result.history.append(row)
            if writer is not None:
                for name, value in row.items():
                    writer.add_scalar(name, value, epoch)
            self._save(model, optimizer, best_state, epoch, waited, result)
            if on_epoch_end is not None:
                on_epoch_end(epoch, row)
        bar.close()
        if writer is not None:
            writer.close()
        model.load_state_dict(best_state)
        model.eval()
        return result

    def _epoch(self, model: nn.Module, task: Task, optimizer: torch.optim.Optimizer, epoch: int, bar: tqdm) -> float:
        """One pass over the training batches; returns the mean loss."""
        words = torch.randint(2**31, (1,), generator=stream(self.seed, 1, epoch, self.fabric.global_rank))
        seed_everything(int(words))
        model.train()
        total = torch.zeros((), device=self.fabric.device)
        count = 0
        for batch in task.batches(epoch):
            optimizer.zero_grad(set_to_none=True)
            loss = task.loss(model, batch)
            self.fabric.backward(loss)
            if self.clip_grad_norm is not None:
                for group in optimizer.param_groups:
                    torch.nn.utils.clip_grad_norm_(group["params"], self.clip_grad_norm)
            optimizer.step()
            total += loss.detach()  # read once an epoch, so that a GPU need not wait in every step
            count += 1
            bar.update()
        mean = float(self.fabric.all_reduce(total, reduce_op="mean")) / max(count, 1)  # type: ignore[arg-type]
        if not math.isfinite(mean):
            raise ValueError(f"the loss became {mean} in epoch {epoch}; lower the learning rate or check the features")
        return mean

    def _evaluate(self, model: nn.Module, task: Task, epoch: int, row: dict[str, float], result: FitResult) -> set[str]:
        """Score validation, and the test split where validation is a new best; returns the metrics that improved."""
        valid = task.evaluate(model, "valid")
        row.update({f"valid/{name}": value for name, value in valid.items()})
        better = {name for name, value in valid.items() if value > result.best.get(name, {}).get("valid", -math.inf)}
        if better:
            test = task.evaluate(model, "test")
            for name in valid:
                if name in better:
                    result.best[name] = {"epoch": epoch, "valid": valid[name], "test": test[name]}
        return better

    def _save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        best_state: dict[str, Any],
        epoch: int,
        waited: int,
        result: FitResult,
    ) -> None:
        if self.folder is None or self.fabric.global_rank > 0:
            return
        content = {
            "epoch": epoch,
            "seed": self.seed,
            "waited": waited,
            "seconds": result.seconds,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best_state": best_state,
            "best": result.best,
            "history": result.history,
        }
        with atomic_write(self.folder / "checkpoint.pt", "wb") as file:
            torch.save(content, file)
        columns = list(dict.fromkeys(name for row in result.history for name in row))
        with atomic_write(self.folder / "history.csv") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(result.history)

    def _load(self) -> dict[str, Any] | None:
        assert self.folder is not None
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            saved = torch.load(path, map_location=self.fabric.device, weights_only=True)
            known = saved["seed"]
        except Exception as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, or run without resume") from error
        if known != self.seed:
            raise ValueError(f"{path} belongs to a run with seed {known}, not {self.seed}; use another folder")
        return saved

    def _writer(self, first: int) -> Any:
        if not self.tensorboard or self.fabric.global_rank > 0:
            return None
        from graphkit.utils.extras import require

        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=first)


def make_fabric(device: str = "auto", precision: Any = "32-true", devices: int = 1) -> Fabric:
    """A Fabric for one device, or for all processes of a ``torchrun`` (DDP)."""
    import os

    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "gpu": "cuda"}.get(device)
    if accelerator is None:
        raise ValueError(f"device must be auto, cpu or cuda (got {device!r})")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but PyTorch sees no GPU; use device='cpu' or install a CUDA build of torch")
    if world > 1:
        nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        fabric = Fabric(
            accelerator=accelerator, devices=world // nodes, num_nodes=nodes, strategy="ddp", precision=precision
        )
    else:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
    fabric.launch()
    return fabric


def _copy_state(model: nn.Module) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
