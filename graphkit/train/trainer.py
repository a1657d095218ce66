"""The training loop: a thin layer over Lightning Fabric that can be killed at any moment and resumed exactly."""

from __future__ import annotations

import copy
import csv
import math
import operator
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from graphkit.train.captured_step import CapturedStep
from graphkit.train.tasks.task import Task
from graphkit.utils.checks import check_choice, check_int, check_range
from graphkit.utils.describe import attributes, describe, differences
from graphkit.utils.io import atomic_write, check_writable, load_tensors, remove_leftovers, save_tensors
from graphkit.utils.seed import seed_everything, stream


@dataclass
class FitResult:
    """What a training run found.

    Attributes:
        best: for each metric the epoch of the best validation value, that value, and the test value of that epoch.
        history: one row an epoch: epoch, loss, seconds and, where evaluated, ``valid/<metric>`` and what
            :meth:`Task.observe` tells.
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
    new best, and of equal epochs the first one counts unless ``ties`` says otherwise. All random numbers of an epoch
    follow from ``seed``, the epoch and the rank, so a run resumed from the checkpoint of its last whole epoch goes on
    exactly as if it had never stopped: bit for bit on a CPU, and on a GPU as closely as any two runs agree there. The
    checkpoint holds a description of task, model, optimizer and trainer, and is refused in another run; only
    ``max_epochs`` may grow.

    With several processes (DDP) every batch is shared among them, so that the same settings train the same model::

        torchrun --nproc-per-node 4 -m graphkit.cli run ncnc --dataset ogbl-collab

    Only rank 0 writes files and shows progress. Evaluation runs in full precision on every rank, and the values of
    rank 0 count, so that all ranks choose and stop alike.

    Args:
        max_epochs: epochs to train; 0 only evaluates.
        fabric: a :class:`lightning_fabric.Fabric` (device, precision, strategy); None makes one for ``device``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; only without ``fabric``.
        precision: Fabric's precision, such as ``"32-true"`` or ``"bf16-mixed"``; only without ``fabric``.
        seed: seed of dropout and everything else the model draws.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        patience: stop after this many evaluations without a better ``task.monitor``; None never.
        ties: ``"first"`` or ``"last"``: which of several epochs with the same validation value counts. On a small
            validation split many are equal, and much published code takes the last one. A later tie counts as an
            improvement for ``patience``.
        clip_grad_norm: largest gradient norm of each of the optimizer's parameter groups.
        schedule: before each step, learning rates are those of the optimizer times ``schedule(epochs)``, where
            ``epochs`` is how much of the training is done, such as 1.5; constant if None.
        capture: record a training step as a CUDA graph and replay it, which pays where a step is many small kernels,
            as for streams. Each epoch's first batch and batches of another size are trained step by step. One GPU, no
            ``schedule``, no 16-bit gradient scaling, and a step of fixed shapes that never waits for the GPU.
        folder: where ``checkpoint.pt`` and ``history.csv`` go; None keeps nothing.
        resume: continue from ``folder/checkpoint.pt`` if it is there.
        save_every: least seconds between two checkpoints, so that short epochs do not wait for the disk: a killed run
            repeats no more than that. 0 writes one after every epoch. The first and the last epoch always write one.
        tensorboard: also log for TensorBoard (extra ``tensorboard``) under ``folder``.
        progress: show a progress bar.
        description: label of the progress bar.

    Raises:
        ValueError: an argument out of range; a loss, weight or validation metric that is not finite (the checkpoint is
            then still that of the epoch before); a checkpoint that is damaged or of another run.
        OSError: the folder cannot be written.

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
        ties: str = "first",
        clip_grad_norm: float | None = None,
        schedule: Callable[[float], float] | None = None,
        capture: bool = False,
        folder: str | Path | None = None,
        resume: bool = False,
        save_every: float = 0.0,
        tensorboard: bool = False,
        progress: bool = True,
        description: str = "",
    ) -> None:
        self.max_epochs = check_int(max_epochs, "max_epochs", 0)
        self.seed = check_int(seed, "seed", 0)
        self.eval_every = check_int(eval_every, "eval_every", 1)
        self.patience = None if patience is None else check_int(patience, "patience", 1)
        self.ties = check_choice(ties, "ties", ("first", "last"))
        if clip_grad_norm is not None:
            check_range(clip_grad_norm, "clip_grad_norm", 0, low_open=True)
        self.clip_grad_norm, self.schedule = clip_grad_norm, schedule
        if (resume or tensorboard) and folder is None:
            raise ValueError("folder must be given with resume or tensorboard (got None)")
        self.fabric = fabric or make_fabric(device, precision)
        self.folder = None if folder is None else Path(folder)
        self.resume, self.tensorboard = resume, tensorboard
        self.save_every = check_range(save_every, "save_every", 0)
        self.progress, self.description = progress, description
        self.capture = capture
        if capture:
            self._check_capture()

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
            on_epoch_end: called with the epoch and its row of the history, after the checkpoint if one was written.
        """
        fabric = self.fabric
        if self.capture and optimizer is not None:
            if task.num_batches() < 3:
                raise ValueError(
                    f"capture needs three batches an epoch or more (got {task.num_batches()}); train without it"
                )
            for group in optimizer.param_groups:
                # Where an optimizer keeps its number of steps: on the GPU, so that a replay counts too.
                if "capturable" in group:
                    group["capturable"] = True
        settings = self._settings(model, task, optimizer)
        task = task.to(fabric.device)
        task.rank, task.world_size = fabric.global_rank, fabric.world_size
        wrapped = model.to(fabric.device)
        if optimizer is not None:
            wrapped, optimizer = fabric.setup(model, optimizer)
        if optimizer is None or self.max_epochs == 0:
            result = self._evaluate_only(model, task)
            self._finish(model, task, result)
            return result
        if self.folder is not None and fabric.global_rank == 0:
            check_writable(self.folder)
            for name in ("checkpoint.pt", "history.csv"):
                remove_leftovers(self.folder / name)
        result, best_state = FitResult(), _copy_state(model)
        first, waited = 1, 0
        saved = self._load(settings) if self.resume else None
        if saved is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            fabric.strategy.precision.load_state_dict(saved["precision"])
            best_state, first, waited = saved["best_state"], saved["epoch"] + 1, saved["waited"]
            result = FitResult(saved["best"], saved["history"], saved["seconds"])
            self._write_history(result)
        writer = self._writer(first)
        size = task.epoch_size()
        bar = tqdm(
            total=self.max_epochs * size,
            initial=(first - 1) * size,
            desc=self.description,
            unit=task.unit,
            leave=False,
            disable=not self.progress or fabric.global_rank > 0,
        )
        saved_at = -math.inf
        step = partial(self._step, wrapped, task, optimizer)
        captured = CapturedStep(step) if self.capture else step
        try:
            for epoch in range(first, self.max_epochs + 1):
                if self.patience is not None and waited >= self.patience:
                    break
                start = time.perf_counter()
                loss = self._epoch(model, task, optimizer, epoch, bar, step, captured)
                row: dict[str, float] = {"epoch": epoch, "loss": loss}
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
                    # Before the checkpoint: an epoch that is repeated is purged from the log, a missing one is lost.
                    writer.flush()
                last = epoch == self.max_epochs or (self.patience is not None and waited >= self.patience)
                if last or time.perf_counter() - saved_at >= self.save_every:
                    self._save(model, optimizer, best_state, epoch, waited, result, settings)
                    saved_at = time.perf_counter()
                if on_epoch_end is not None:
                    on_epoch_end(epoch, row)
        finally:
            bar.close()
            if writer is not None:
                writer.close()
        model.load_state_dict(best_state)
        self._finish(model, task, result)
        return result

    def _finish(self, model: nn.Module, task: Task, result: FitResult) -> None:
        """What follows an epoch's choice draws the same numbers whether the run was resumed or not."""
        model.eval()
        self._seed(0)
        start = time.perf_counter()
        found = self.fabric.broadcast(task.final_metrics(model))
        for name, value in found.items():
            result.best[name] = {"epoch": result.best.get(task.monitor, {}).get("epoch", 0), **value}
        result.seconds += time.perf_counter() - start
        self._seed(0)

    def _seed(self, epoch: int) -> None:
        words = torch.randint(2**31, (1,), generator=stream(self.seed, 1, epoch, self.fabric.global_rank))
        seed_everything(int(words))

    def _evaluate_only(self, model: nn.Module, task: Task) -> FitResult:
        self._seed(0)
        start = time.perf_counter()
        valid, test = self._scores(model, task, "valid"), self._scores(model, task, "test")
        best = {name: {"epoch": 0, "valid": value, "test": test[name]} for name, value in valid.items()}
        return FitResult(best, seconds=time.perf_counter() - start)

    def _check_capture(self) -> None:
        if self.fabric.device.type != "cuda":
            raise ValueError(f"capture needs a CUDA device (got {self.fabric.device}); train without it")
        if self.fabric.world_size > 1:
            raise ValueError(f"capture needs one process (got {self.fabric.world_size}); train without it")
        if self.schedule is not None:
            raise ValueError("capture keeps the learning rate of the step it records; leave out schedule or capture")
        if getattr(self.fabric.strategy.precision, "scaler", None) is not None:
            raise ValueError("capture cannot scale gradients; choose precision='bf16-mixed' or train without it")

    def _step(self, model: nn.Module, task: Task, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
        """Learn from a batch; returns its loss."""
        optimizer.zero_grad(set_to_none=True)
        loss = task.loss(model, batch)
        self.fabric.backward(loss)
        if self.clip_grad_norm is not None:
            self.fabric.strategy.precision.unscale_gradients(getattr(optimizer, "optimizer", optimizer))
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], self.clip_grad_norm)
        optimizer.step()
        return loss.detach()

    def _epoch(
        self,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        epoch: int,
        bar: tqdm,
        step: Callable[[Any], Tensor],
        captured: Callable[[Any], Tensor],
    ) -> float:
        """One pass over the training batches; returns the mean loss."""
        self._seed(epoch)
        model.train()
        total = torch.zeros((), device=self.fabric.device)
        count, steps = 0, task.num_batches() if self.schedule is not None else 1
        for batch in task.batches(epoch):
            if self.schedule is not None:
                factor = self.schedule(epoch - 1 + count / steps)
                # The inner one: the wrapper's groups are not those of a checkpoint that was loaded.
                for group in getattr(optimizer, "optimizer", optimizer).param_groups:
                    group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
            # A task may do more at an epoch's first batch than a recorded step would.
            loss = captured(batch) if count else step(batch)
            total += loss  # read once an epoch, so that a GPU need not wait in every step
            count += 1
            bar.update(task.size(batch))
        if count == 0:
            raise ValueError(f"task gave no batch in epoch {epoch}; check its training data and batch size")
        finite = torch.stack([torch.isfinite(p.detach()).all() for p in model.parameters()]).all()
        both = self.fabric.all_reduce(torch.stack([total / count, finite.to(total.dtype)]), reduce_op="mean")
        mean, sound = both.tolist()  # type: ignore[union-attr]
        if not math.isfinite(mean) or sound < 1:
            what = f"the loss became {mean}" if not math.isfinite(mean) else "weights became NaN or infinite"
            raise ValueError(f"{what} in epoch {epoch}; lower the learning rate, clip gradients or check the features")
        return mean

    def _evaluate(self, model: nn.Module, task: Task, epoch: int, row: dict[str, float], result: FitResult) -> set[str]:
        """Score validation, and the test split where validation is a new best; returns the metrics that improved."""
        valid = self._scores(model, task, "valid")
        row.update({f"valid/{name}": value for name, value in valid.items()})
        row.update(task.observe(model))
        is_better = operator.gt if self.ties == "first" else operator.ge
        sign = {name: -1 if name in task.lower_is_better else 1 for name in valid}
        best = {name: result.best.get(name, {}).get("valid", -sign[name] * math.inf) for name in valid}
        better = {name for name, value in valid.items() if is_better(sign[name] * value, sign[name] * best[name])}
        if better:
            test = self._scores(model, task, "test")
            for name in valid:
                if name in better:
                    result.best[name] = {"epoch": epoch, "valid": valid[name], "test": test[name]}
        return better

    def _scores(self, model: nn.Module, task: Task, split: str) -> dict[str, float]:
        found = {name: float(value) for name, value in task.evaluate(model, split).items()}
        # Sums on a GPU may differ in the last bit from rank to rank, and with them the choice of the epoch.
        found = self.fabric.broadcast(found)
        if task.monitor not in found:
            raise ValueError(f"task.monitor must be one of the metrics {', '.join(found)} (got {task.monitor!r})")
        broken = [name for name, value in found.items() if not math.isfinite(value)]
        if broken:
            raise ValueError(f"{split} {broken[0]} is {found[broken[0]]}; check the scores of the model and the split")
        return found

    def _settings(self, model: nn.Module, task: Task, optimizer: torch.optim.Optimizer | None) -> dict[str, str]:
        """What must be the same in a run that is resumed."""
        if self.folder is None or optimizer is None:
            return {}
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": len(group["params"])}
            for group in optimizer.param_groups
        ]
        precision = self.fabric.strategy.precision
        trainer = {
            "seed": self.seed,
            "eval_every": self.eval_every,
            "patience": self.patience,
            "clip_grad_norm": self.clip_grad_norm,
            **({} if self.ties == "first" else {"ties": self.ties}),
            **({} if self.schedule is None else {"schedule": self.schedule}),
            **({"capture": True} if self.capture else {}),
            "processes": self.fabric.world_size,
            "precision": str(getattr(precision, "precision", type(precision).__name__)),
        }
        return {
            **describe(trainer, "trainer"),
            **describe({"class": type(optimizer).__name__, "groups": groups}, "optimizer"),
            **describe(model, "model"),
            **attributes(task, "task", leave_out=("rank", "world_size")),
        }

    def _save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        best_state: dict[str, Any],
        epoch: int,
        waited: int,
        result: FitResult,
        settings: dict[str, str],
    ) -> None:
        if self.folder is None or self.fabric.global_rank > 0:
            return
        content = {
            "epoch": epoch,
            "settings": settings,
            "waited": waited,
            "seconds": result.seconds,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "best_state": best_state,
            "best": result.best,
            "history": result.history,
        }
        save_tensors(content, self.folder / "checkpoint.pt")
        self._write_history(result)

    def _write_history(self, result: FitResult) -> None:
        """The history as a table; the checkpoint holds it too, so a kill between the two files loses nothing."""
        if self.folder is None or self.fabric.global_rank > 0:
            return
        columns = list(dict.fromkeys(name for row in result.history for name in row))
        with atomic_write(self.folder / "history.csv") as file:
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(result.history)

    def _load(self, settings: dict[str, str]) -> dict[str, Any] | None:
        """The checkpoint, the same on every rank, or None if there is none."""
        # Only rank 0 needs to see the folder.
        saved = self._read(settings) if self.fabric.global_rank == 0 else None
        return self.fabric.broadcast(saved)

    def _read(self, settings: dict[str, str]) -> dict[str, Any] | None:
        assert self.folder is not None
        path = self.folder / "checkpoint.pt"
        try:
            saved = load_tensors(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{error}; delete it, or run without resume") from error
        if not isinstance(saved, dict) or not saved.keys() >= _CONTENT:
            raise ValueError(f"{path} is no checkpoint of this version; delete it, or run without resume")
        other = differences(saved["settings"], settings)
        if other:
            raise ValueError(
                f"{path} belongs to a run with other settings ({other}); use another folder, or run without resume"
            )
        if saved["epoch"] > self.max_epochs:
            raise ValueError(
                f"{path} has {saved['epoch']} epochs, more than max_epochs={self.max_epochs}; use another folder, or "
                "run without resume"
            )
        evaluated = any(name.startswith("valid/") for name in saved["history"][-1])
        if evaluated and saved["epoch"] % self.eval_every and saved["epoch"] < self.max_epochs:
            raise ValueError(
                f"{path} was evaluated after its last epoch {saved['epoch']}, which a run of max_epochs="
                f"{self.max_epochs} with eval_every={self.eval_every} is not; run without resume"
            )
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
    # Without a local rank nobody started the other processes, and waiting for them would never end.
    world = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
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


_CONTENT = {
    "epoch",
    "settings",
    "waited",
    "seconds",
    "model",
    "optimizer",
    "precision",
    "best_state",
    "best",
    "history",
}


def _copy_state(model: nn.Module) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in model.state_dict().items()
    }
