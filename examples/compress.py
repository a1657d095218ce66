"""From a graph network to whole numbers: GCN, a GCN with local augmentation (https://arxiv.org/abs/2109.03856), the
tokenizer and the MLP that it teaches (https://arxiv.org/abs/2308.02117), that MLP with weights of four bits.

    python examples/compress.py                               # digits: needs no download
    python examples/compress.py --export student.npz          # 7 kB that NumPy serves

Each stage is an Experiment that starts from the one before. `graphkit run compress` also measures latencies.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

from graphkit.datasets import load
from graphkit.nn import GNN, LAGCN, CodeDistillMLP, GraphTokenizer, IntegerMLP, NeighborCVAE, load_integer_mlp
from graphkit.train import (
    AugmentedClassifier,
    AugmentedNetwork,
    Experiment,
    GraphTokenizerTask,
    LocalAugmentation,
    LocalAugmentationTask,
    NeighborFeatureTask,
    NodeClassificationTask,
    NodeDistillationTask,
    Task,
)
from graphkit.utils.cost import model_bytes
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="digits", help="digits, pyimports, CPF-Cora ...")
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--hidden", type=int, default=128, help="width of the student")
parser.add_argument("--w-bits", type=int, default=4)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--export", help="file for the student in whole numbers, *.npz")
parser.add_argument("--fast", action="store_true", help="a few epochs, to see that it runs")
args = parser.parse_args()
epochs, passes = (3, 1) if args.fast else (args.epochs, 10)

seed_everything(args.seed)
dataset = load(args.dataset, args.root)
data, split, classes = dataset.data, dataset.split(args.seed, "per-class"), dataset.info.classes


def train(name: str, task: Task, model: nn.Module, epochs: int, lr: float = 0.01, weight_decay: float = 0.0) -> None:
    """Train a stage; it is left with the weights of its best validation epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr, weight_decay=weight_decay)
    found = Experiment(task, model, optimizer, epochs).run(device="cpu", progress=False, seed=args.seed)
    if "Accuracy" in found.best:
        print(f"{name:<12} test accuracy {found.test('Accuracy'):.2f} %   {model_bytes(model) / 1000:7.1f} kB")


# 1. A graph network on its own.
train("GCN", NodeClassificationTask(data, split), GNN(data.num_features, 64, 2, classes), epochs, weight_decay=5e-4)

# 2. One that sees, beside each node's features, those of a neighbour that is not there.
cvae = NeighborCVAE(data.num_features, hidden_channels=64)
train("generator", NeighborFeatureTask(data.x, data.edge_index, seed=args.seed), cvae, passes)
augment = LocalAugmentation(cvae, normalize=False, pool_size=20, seed=args.seed)
lagcn = AugmentedNetwork(LAGCN(data.num_features, 32, classes))
train("LAGCN", LocalAugmentationTask(data, split, augment), lagcn, epochs, weight_decay=5e-4)

# 3. It teaches a tokenizer, which names the surroundings of every node by a code.
tokenizer = GraphTokenizer(data.num_features, 64, classes, num_codes=256, code_dim=64, dead_code_threshold=0.1)
taught = GraphTokenizerTask(data, split, teacher=AugmentedClassifier(lagcn, augment))
train("tokenizer", taught, tokenizer, epochs, weight_decay=1e-3)

# 4. Classes and codes teach an MLP, which needs no graph.
student = CodeDistillMLP(data.num_features, args.hidden, classes, tokenizer.code_dim, dropout=0.1)
train("student", NodeDistillationTask(data, split, tokenizer, w_code=100.0), student, 2 * epochs)

# 5. Its weights are rounded, and it is taught once more with every step rounded.
integer = IntegerMLP.from_student(student, data.x, w_bits=args.w_bits, a_bits=8)
train("in integers", NodeDistillationTask(data, split, tokenizer), integer, epochs, lr=1e-3)

# 6. The file is read and served by NumPy, and answers bit for bit the same.
with tempfile.TemporaryDirectory() as folder:
    path = integer.save(args.export or Path(folder, "student.npz"))
    answer = load_integer_mlp(path)
    size = path.stat().st_size
logits = torch.from_numpy(answer(data.x.numpy()))
assert torch.equal(logits, integer.eval()(data.x))
right = (logits.argmax(1) == data.y)[split.test].float().mean()
print(f"{args.dataset}: {size} bytes, test accuracy {100 * float(right):.2f} %")
