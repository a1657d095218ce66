"""A language model that speaks in spikes: SpikeGPT on Python's help texts, character by character, beside an n-gram
model, and a few lines that it makes up.

    python examples/spikegpt_chars.py                       # ten minutes
    python examples/spikegpt_chars.py --no-spikes           # the same network without neurons: RWKV
    python examples/spikegpt_chars.py --text my_book.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from graphkit.datasets.text import help_topics, position_split, read_text
from graphkit.nn import NGram, SpikeGPT, SpikeMeter
from graphkit.train import NextTokenTask
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--text", type=Path, help="a text file; Python's help texts if not given")
parser.add_argument("--no-spikes", action="store_true", help="the same network without neurons")
parser.add_argument("--channels", type=int, default=128)
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--context", type=int, default=256)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="a small network and few steps, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.channels, args.layers, args.context, args.epochs = 16, 1, 32, 1

seed_everything(args.seed)
text = help_topics() if args.text is None else read_text(args.text)
ids, size = text.x[:20000] if args.fast else text.x, len(text.symbols)
split = position_split(len(ids))
# Owns the windows and the score: bits a character over a whole part.
task = NextTokenTask(ids, split, args.context, args.batch_size, size, args.seed).to(args.device)

counts = NGram(size, order=6).fit(ids[split.train]).to(args.device)
print(f"6-gram: test {task.evaluate(counts, 'test')['Bits per character']:.2f} bits a character")

spiking = not args.no_spikes
model = SpikeGPT(
    1, args.channels, size, args.layers, num_embeddings=size, spiking=spiking, binary_input=spiking, dropout=0.03
).to(args.device)
optimizer = torch.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.99), weight_decay=0.01)
best_valid = best_test = float("inf")
for epoch in range(1, args.epochs + 1):
    model.train()
    for first in task.batches(epoch):
        # Windows one after the other, each a chain of tokens; what comes next is one place further.
        place = (first[:, None] + torch.arange(args.context, device=args.device)).view(-1)
        ptr = torch.arange(len(first) + 1, device=args.device) * args.context
        loss = F.cross_entropy(model(task.ids[place], ptr), task.ids[place + 1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    valid = task.evaluate(model, "valid")["Bits per character"]
    if valid < best_valid:
        best_valid, best_test = valid, task.evaluate(model, "test")["Bits per character"]
    print(f"epoch {epoch}: loss {float(loss):.3f}, validation {valid:.3f} bits")

# Token by token with the state of the recurrence and the neurons: each costs the same, however long the text.
prompt = task.ids[split.test[: args.context]]
made = model.generate(prompt, 40 if args.fast else 400, temperature=0.7)
print("".join(text.symbols[i] for i in made.tolist()))

if spiking:
    with SpikeMeter(model) as meter:
        task.evaluate(model, "test")
    operations = model.synaptic_operations(meter.rates()) / 1000
    print(f"{100 * meter.rate():.1f} % of the neurons fire at a token: {operations:.1f} thousand synaptic operations")
print(f"{'SpikeGPT' if spiking else 'RWKV'}: test {best_test:.2f} bits a character")
