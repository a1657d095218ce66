"""Make ``datasets/pyimports/pyimports.npz``: who imports whom among the modules of twelve Python packages.

    python scripts/datasets/make_pyimports.py [--wheels FOLDER] [--out FILE]

Downloads the pinned wheels below with ``pip download`` (or takes them from ``--wheels``), reads every module inside
with :mod:`ast`, and writes nodes, edges, labels and features. Nothing from a wheel is installed, imported or run, and
wheels are read in place, not unpacked. The same wheels give the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graphkit.utils.io import atomic_write

# Distribution: version and SHA-256 of its wheel. Wheels rather than source archives: downloading a source archive
# makes pip run its build script.
PINNED: dict[str, tuple[str, str]] = {
    "astropy": ("8.0.2", "000d6998bcf4f097257b3776f29f1dafde0967bf1b091edbad95df564eee4eea"),
    "django": ("5.2.19", "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00"),
    "matplotlib": ("3.11.2", "07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8"),
    "networkx": ("3.6.1", "d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762"),
    "nltk": ("3.10.4", "769ba5413f265b7d3e87cd163cc28efa01e29eeef8bb6080bc907949d9fcfb51"),
    "pandas": ("3.1.1", "4f1602f614bb83f443381dbcbb94c4ac764b2e50c8d6c965614c5cd83e328c47"),
    "scikit-learn": ("1.9.1", "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df"),
    "scipy": ("1.17.1", "43af8d1f3bea642559019edfe64e9b11192a8978efbd1539d7bc2aaa23d92de4"),
    "sqlalchemy": ("2.1.9", "3a24b459e52b3ac138f6a05e99a4bd0589443a1ae18041a59c1cfdee12134a2b"),
    "statsmodels": ("0.15.0", "b67886b66d9c7ca118526accedb5c6de7ffd74c015dc0492ea0b1690192b65da"),
    "sympy": ("1.14.0", "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5"),
    "twisted": ("26.10.0", "3732f42af218925a0fe78d6668db55853f7fb532245a89a2669babe7d3000fa8"),
}
# Wheels with compiled parts exist per platform; the Python files that we read come from this one.
PLATFORMS = (
    "manylinux2014_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_28_x86_64",
)
NUM_FEATURES = 512
# A word in more than this share of the modules ("self", "name") tells them apart too little to spend a column on.
MAX_SHARE = 0.2
OUT = Path(__file__).resolve().parents[2] / "datasets" / "pyimports" / "pyimports.npz"

Facts = tuple[list[tuple[str, str | None]], set[str]]


def module_name(path: str) -> str | None:
    """``"a/b/__init__.py"`` -> ``"a.b"``; None for what no import statement can name (``0001_initial.py``)."""
    if not path.endswith(".py"):
        return None
    parts = path[: -len(".py")].split("/")
    if not all(part.isidentifier() for part in parts):
        return None
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) or None


def is_test(path: str) -> bool:
    """Test suites are left out: most import one module and pytest, and nothing imports them."""
    *folders, file = path.split("/")
    return bool({"test", "tests"} & set(folders)) or file.startswith("test_") or file in ("conftest.py", "tests.py")


def words(identifier: str) -> list[str]:
    """``"parseHTTPHeader_v2"`` -> ``["parse", "http", "header"]``; single letters and numbers are dropped."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)
    return [word.lower() for word in found if len(word) > 1]


def module_facts(source: bytes, name: str, is_package: bool) -> Facts:
    """Imports ``(module, imported name or None)`` with relative ones made absolute, and the words of identifiers.

    Names that an import statement binds give no words. Otherwise a feature of the importer would spell out the edge.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    imports: list[tuple[str, str | None]] = []
    bound: set[str] = set()
    identifiers: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                imports += [(alias.name, None) for alias in node.names]
                bound.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    # One dot is the package that holds the module, which for a package is the package itself.
                    parts = name.split(".")
                    parts = parts[: len(parts) - node.level + is_package]
                    base = ".".join([*parts, *([node.module] if node.module else [])])
                imports += [(base, alias.name) for alias in node.names]
                bound.update(alias.asname or alias.name for alias in node.names)
            case ast.Name():
                identifiers.add(node.id)
            case ast.Attribute():
                identifiers.add(node.attr)
            case ast.arg():
                identifiers.add(node.arg)
            case ast.keyword() if node.arg:
                identifiers.add(node.arg)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                identifiers.add(node.name)
    return imports, {word for identifier in identifiers - bound for word in words(identifier)}


def resolve(module: str, name: str | None, known: Mapping[str, int]) -> str | None:
    """The module that an import names: the submodule ``module.name`` if there is one, else ``module``, else None."""
    if name is not None and f"{module}.{name}" in known:
        return f"{module}.{name}"
    return module if module in known else None


def column(word: str, num_features: int) -> int:
    """Feature column of a word: CRC-32, which does not depend on the process as ``hash`` does."""
    return zlib.crc32(word.encode()) % num_features


def build(sources: Mapping[str, Mapping[str, bytes]], num_features: int = NUM_FEATURES) -> dict[str, np.ndarray]:
    """Arrays of the dataset from ``{package: {path: source}}``.

    Modules without any import to or from another module of the set are dropped. Files that do not parse are skipped.
    """
    facts: dict[str, tuple[str, Facts]] = {}
    for package in sorted(sources):
        for path in sorted(sources[package]):
            name = module_name(path)
            is_package = path.endswith("__init__.py")
            # "a.py" beside "a/__init__.py": Python imports the folder.
            if name is None or is_test(path) or (name in facts and not is_package):
                continue
            try:
                facts[name] = (package, module_facts(sources[package][path], name, is_package))
            except (SyntaxError, ValueError) as error:
                print(f"skipped {path}: {error}", file=sys.stderr)

    known = {name: i for i, name in enumerate(sorted(facts))}
    edges = set()
    for name, (_, (imports, _)) in facts.items():
        targets = {resolve(module, imported, known) for module, imported in imports}
        edges.update((name, target) for target in targets if target is not None and target != name)
    names = sorted({name for edge in edges for name in edge})
    index = {name: i for i, name in enumerate(names)}
    if len(names) > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(names)} modules do not fit 16-bit ids")

    labels = sorted({facts[name][0] for name in names})
    share = Counter(word for name in names for word in facts[name][1][1])
    x = np.zeros((len(names), num_features), dtype=bool)
    for name in names:
        kept = [column(w, num_features) for w in facts[name][1][1] if share[w] <= max(MAX_SHARE * len(names), 1)]
        x[index[name], kept] = True
    pairs = sorted((index[importer], index[imported]) for importer, imported in edges)
    return {
        "edge_index": np.array(pairs, dtype=np.uint16).reshape(-1, 2).T.copy(),
        "x": np.packbits(x, axis=1),
        "num_features": np.array(num_features, dtype=np.int64),
        "y": np.array([labels.index(facts[name][0]) for name in names], dtype=np.uint8),
        "module_names": np.frombuffer("\n".join(names).encode(), dtype=np.uint8),
        "label_names": np.frombuffer("\n".join(labels).encode(), dtype=np.uint8),
    }


def save(arrays: Mapping[str, np.ndarray], out: Path) -> None:
    """Write a compressed archive. NumPy stamps every member with the same date, so equal arrays give equal bytes."""
    with atomic_write(out, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_wheel(path: Path) -> dict[str, bytes]:
    """The Python files of a wheel, by path."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if module_name(name) is not None}


def download(folder: Path) -> None:
    """Fetch the pinned wheels; pip checks their hashes."""
    lines = [f"{name}=={version} --hash=sha256:{digest}\n" for name, (version, digest) in PINNED.items()]
    (folder / "requirements.txt").write_text("".join(lines))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation=cp", "--python-version=3.11", *(f"--platform={name}" for name in PLATFORMS)]
    command += ["--abi=cp311", "--abi=abi3", "--abi=none"]
    command += ["--require-hashes", f"--dest={folder}", f"--requirement={folder / 'requirements.txt'}"]
    subprocess.run(command, check=True)


def collect(folder: Path) -> dict[str, dict[str, bytes]]:
    """Sources of every pinned package from the wheels in ``folder``, after checking their hashes."""
    sources = {}
    for package, (version, digest) in PINNED.items():
        found = sorted(folder.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
        if len(found) != 1:
            raise SystemExit(f"expected one wheel of {package} {version} in {folder} (got {len(found)})")
        got = hashlib.sha256(found[0].read_bytes()).hexdigest()
        if got != digest:
            raise SystemExit(f"{found[0]} has SHA-256 {got}, not {digest}")
        sources[package] = read_wheel(found[0])
    return sources


def describe(arrays: Mapping[str, np.ndarray]) -> str:
    """The statistics that the card quotes."""
    edge_index, y = arrays["edge_index"].astype(np.int64), arrays["y"]
    num_nodes = len(y)
    low, high = edge_index.min(axis=0), edge_index.max(axis=0)
    undirected = np.unique(low * num_nodes + high)
    same = y[edge_index[0]] == y[edge_index[1]]
    degree = np.bincount(np.concatenate([undirected // num_nodes, undirected % num_nodes]), minlength=num_nodes)
    x = np.unpackbits(arrays["x"], axis=1)
    lines = [
        f"modules {num_nodes}, imports {edge_index.shape[1]}, undirected edges {len(undirected)}",
        f"degree mean {degree.mean():.2f}, median {np.median(degree):.0f}, max {degree.max()}",
        f"imports within a package {same.mean():.4f}",
        f"features {x.shape[1]}, share of ones {x.mean():.4f}, modules without features {(x.sum(axis=1) == 0).sum()}",
    ]
    counts = np.bincount(y)
    for label, count in zip(arrays["label_names"].tobytes().decode().split("\n"), counts, strict=True):
        lines.append(f"  {label:<14}{count:>6}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder that already holds the pinned wheels")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.wheels or Path(temporary)
        if args.wheels is None:
            download(folder)
        arrays = build(collect(folder))
    save(arrays, args.out)
    print(describe(arrays))
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
