"""Draws docs/_static/embeddings.svg, node vectors of GRACE with and without POT by class.

python scripts/plot_embeddings.py
python scripts/plot_embeddings.py --dataset Cora --out plot.svg
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from plot_parts import cloud, options, principal, svg, trained, write

from graphkit.recipes import pot_gcl


def draw(dataset: str, root: str | None, models: Sequence[str], seed: int) -> str:
    """A panel a model: the first two principal components of its vectors."""
    parts = []
    for place, name in enumerate(models):
        found = trained(pot_gcl, name, seed, dataset=dataset, root=root)
        with torch.no_grad():
            vectors = found.task.embed(found.model)
        parts += cloud(principal(vectors), found.task.y, 20 + 320 * place, 30, 280, name)
    return svg(320 * len(models), 320, parts, f"node vectors on {dataset} by class")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "embeddings.svg")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
    parser.add_argument("--models", nargs="+", default=["GRACE", "GRACE+POT"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    write(given.out, draw(given.dataset, given.root, given.models, given.seed))


if __name__ == "__main__":
    main()
