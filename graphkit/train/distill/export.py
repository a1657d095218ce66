"""A trained student as a file that is served without a graph, without GraphKit and, as ONNX, without PyTorch."""

from __future__ import annotations

import copy
import io
import os
import tempfile
import warnings
from pathlib import Path

import torch

from graphkit.nn import CodeDistillMLP
from graphkit.utils.extras import require
from graphkit.utils.io import atomic_write

SUFFIXES = (".pt2", ".onnx")


def export_student(student: CodeDistillMLP, path: str | os.PathLike) -> Path:
    """Write the way from features to logits to a file; any number of rows may be asked at once.

    Args:
        student: a trained student; its code head is left out.
        path: ``*.pt2`` for :mod:`torch.export` (load it with ``torch.export.load(path).module()``), ``*.onnx`` for ONNX
            (input ``x``, output ``logits``; needs the extra ``onnx``).

    Returns:
        The path.

    Raises:
        ValueError: another suffix.
        ImportError: ONNX without the extra.

    Example:
        >>> export_student(CodeDistillMLP(8, 16, 3), "student.pt2")  # doctest: +SKIP
        >>> logits = torch.export.load("student.pt2").module()(torch.randn(5, 8))  # doctest: +SKIP
    """
    place = Path(path)
    if place.suffix not in SUFFIXES:
        raise ValueError(f"path must end with {' or '.join(SUFFIXES)} (got {str(path)!r})")
    network = copy.deepcopy(student.serving()).cpu()
    weight = next(network.parameters())
    example = (torch.zeros(2, student.in_channels, dtype=weight.dtype),)
    content = io.BytesIO()
    if place.suffix == ".pt2":
        program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim("rows")},))
        torch.export.save(program, content)
    else:
        require("onnx", "onnx")
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there is a newer exporter
            torch.onnx.export(
                network,
                example,
                f"{folder}/student.onnx",
                input_names=["x"],
                output_names=["logits"],
                dynamic_axes={"x": {0: "rows"}, "logits": {0: "rows"}},
                dynamo=False,  # the newer exporter needs one more package
            )
            content.write(Path(folder, "student.onnx").read_bytes())
    with atomic_write(place, "wb") as file:
        file.write(content.getvalue())
    return place
