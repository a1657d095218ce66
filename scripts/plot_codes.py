"""Draws docs/_static/codes.svg: how often each code of VQGraph's tokenizer is used, trained with the recipe's settings
and as released, and the tokenizer's node vectors by class.

python scripts/plot_codes.py
python scripts/plot_codes.py --dataset digits --out plot.svg
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from plot_parts import COLOURS, Chart, cloud, key, options, principal, svg, trained, write

from graphkit.nn import GraphTokenizer
from graphkit.recipes import vqgraph

RELEASED = {"kmeans_init": False, "dead_code_threshold": 0.0, "token_dropout": 0.8, "token_input_dropout": 0.0}


def draw(dataset: str, root: str | None, seed: int) -> str:
    """Uses of codes from the most to the least used, and the vectors that codes stand for."""
    uses, vectors, classes = {}, None, None
    for name, settings in (("recipe", {}), ("as released", RELEASED)):
        found = trained(vqgraph, "VQGraph-teacher", seed, dataset=dataset, root=root, **settings)
        model, task = found.model, found.task
        assert isinstance(model, GraphTokenizer)
        with torch.no_grad():
            code = model(task.features(model), task.graph).tokens.code.flatten()
            uses[name] = torch.bincount(code, minlength=model.quantizer.num_codes).sort(descending=True).values
            if vectors is None:
                vectors, classes = model.encode(task.features(model), task.graph), task.y
    assert vectors is not None
    assert classes is not None
    vectors = torch.nn.functional.normalize(vectors)  # codes are compared by cosine
    shown = max(int((count > 0).sum()) for count in uses.values())
    most = max(int(count[0]) for count in uses.values())
    chart = Chart(56, 40, 330, 256, 1, shown + 1, 0, 1.05 * most, log_x=True)
    parts = chart.frame("uses of each code", "codes, most used first", "nodes")
    names = [f"{name}: {int((count > 0).sum())} of {count.numel()} in use" for name, count in uses.items()]
    for count, colour in zip(uses.values(), COLOURS, strict=False):
        number = int((count > 0).sum())
        parts.append(chart.steps(range(1, number + 2), count[:number].tolist(), colour))
    for place, name in enumerate(names):
        parts += key(chart.left + 90, chart.top + 22 + 20 * place, [name], colours=COLOURS[place:])
    parts += cloud(principal(vectors), classes, 372, 40, 236, "node vectors by class, first two principal components")
    return svg(640, 300, parts, f"uses of codes and node vectors of VQGraph's tokenizer on {dataset}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "codes.svg")
    parser.add_argument("--dataset", default="CPF-Cora")
    parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    write(given.out, draw(given.dataset, given.root, given.seed))


if __name__ == "__main__":
    main()
