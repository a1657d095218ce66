"""Pickled files from outside, read without trusting them: data is admitted, code never runs.

Planetoid's files and OGB's splits are published as pickles. ``weights_only=True`` cannot read all of them (other
pickle protocols, numpy arrays), so a list of harmless names stands between the file and Python.
"""

from __future__ import annotations

import _codecs
import collections
import pickle
from os import PathLike
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import scipy.sparse
import torch

_array = np.empty(0).__reduce__()[0]
_buffer = np.empty(0).__reduce_ex__(5)[0]
_scalar = np.float32(0).__reduce__()[0]
ADMITTED: dict[tuple[str, str], Any] = {
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
    ("_codecs", "encode"): _codecs.encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy.core.numeric", "_frombuffer"): _buffer,
    ("numpy._core.numeric", "_frombuffer"): _buffer,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("scipy.sparse._csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Admits numpy arrays, torch tensors, scipy CSR matrices and builtin containers; any other name is an error."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no plain data") from None


def load_pickle(path: str | PathLike, encoding: str = "latin1") -> Any:
    """The content of a pickle.

    Raises:
        ValueError: the file is damaged, or holds anything but data.
    """
    return _load(path, lambda file: RestrictedUnpickler(file, encoding=encoding).load())


def load_torch(path: str | PathLike) -> Any:
    """The content of a file written by ``torch.save``; raises as :func:`load_pickle`."""

    def load(file: IO[bytes], **options: Any) -> Any:
        return RestrictedUnpickler(file, **options).load()

    module = SimpleNamespace(Unpickler=RestrictedUnpickler, load=load, __name__="restricted")
    # weights_only would replace our unpickler by its own, which knows fewer pickle protocols.
    return _load(path, lambda file: torch.load(file, map_location="cpu", pickle_module=module, weights_only=False))


def _load(path: str | PathLike, read: Any) -> Any:
    with open(path, "rb") as file:
        try:
            return read(file)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} cannot be read: {reason}; fetch the file again") from error
