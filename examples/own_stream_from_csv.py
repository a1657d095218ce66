"""From a table of your own to a trained model that ranks what a user will do next, in your own names.

    python examples/own_stream_from_csv.py                               # writes and reads an invented interactions.csv
    python examples/own_stream_from_csv.py mine.csv --user ann --time 2024-03-01T18:00

The file has a header and the columns user, item, time, then any number of features. Names are any text; times are dates
(ISO 8601, UTC unless they say otherwise) or whole numbers of seconds; features are numbers, best between -1 and 1.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import pandas
import torch

from graphkit.datasets import EventSplit, EventStream, StoredNegatives, relabel
from graphkit.nn import NAT
from graphkit.train import TemporalLinkEvaluator, TemporalLinkPredictionTask, Trainer
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("csv", nargs="?", type=Path, help="user,item,time[,features]; an invented one if not given")
parser.add_argument("--out", type=Path, default=Path("runs/own_stream"), help="folder of what is written")
parser.add_argument("--user", help="whose next items are ranked; the most active user's if not given")
parser.add_argument("--time", help="when; just after the last event if not given")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="one epoch, to see that it runs")
args = parser.parse_args()
args.epochs = 1 if args.fast else args.epochs
seed_everything(0)
args.out.mkdir(parents=True, exist_ok=True)


def invent(path: Path) -> Path:
    """Customers of a café with a few habits each: 3,000 orders with a price."""
    draw, rows, time = random.Random(0), ["user,item,time,price"], pandas.Timestamp("2024-01-01")
    kinds, foods = ("plain", "large", "iced", "spiced"), ("tea", "coffee", "cake", "soup")
    menu = [f"{kind} {food}" for kind in kinds for food in foods]
    habits = {f"guest-{number}": draw.sample(menu, 3) for number in range(60)}
    for _ in range(3000):
        user = draw.choice(list(habits))
        if draw.random() < 0.02:
            habits[user].append(draw.choice(menu))
        time += pandas.Timedelta(minutes=draw.randrange(1, 30))
        rows.append(f"{user},{draw.choice(habits[user][-3:])},{time.isoformat()},{draw.uniform(0.2, 0.9):.2f}")
    path.write_text("\n".join(rows) + "\n")
    return path


# 1. The table as a stream. As text, "007" and "7" are two users, and one called "NA" is no missing cell.
path = args.csv or invent(args.out / "interactions.csv")
table = pandas.read_csv(path, dtype={"user": str, "item": str}, na_filter=False)
features = [name for name in table.columns if name not in ("user", "item", "time")]
if len(table.columns) != len(features) + 3:
    raise SystemExit(f"{path} must have the columns user, item and time (got {', '.join(table.columns)})")
are_dates = not pandas.api.types.is_numeric_dtype(table["time"])
if are_dates:
    table["time"] = pandas.to_datetime(table["time"], utc=True, format="ISO8601")
# Users are 0, 1, ..., items come after them. Where both ends are of one kind (people who write to people), leave
# bipartite=True out.
src, dst, names = relabel(table["user"], table["item"], bipartite=True)
num_users = int(src.max()) + 1
stream = EventStream.from_pandas(table.assign(src=src, dst=dst), t="time", msg=features, sort=True)
split = EventSplit.make(stream)
print(f"{stream}, {split}")

# 2. Train. Validation chooses the epoch; average precision in every epoch, the mean reciprocal rank at the end.
stored = StoredNegatives.make(stream, torch.cat([split.valid, split.test]), num_neg=10)
ranking = TemporalLinkEvaluator("mrr", stored, batch_size=50)
task = TemporalLinkPredictionTask(stream, split, batch_size=50, final=ranking)
model = NAT(stream.num_nodes, stream.msg_dim)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
result = Trainer(args.epochs, device=args.device, patience=3).fit(model, task, optimizer)
for metric in ("AP", "MRR"):
    print(f"epoch {result.best[metric]['epoch']}: test {metric} {result.test(metric):.2f} %")

# 3. The model comes with its state after validation: show it the rest, so that it knows all that happened, and save it.
task.catch_up(model)
torch.save({"model": model.state_dict(), "names": names.tolist(), "num_users": num_users}, args.out / "model.pt")

# 4. Another day, another process: weights, state and names are in the file. Messages of past events are read from the
# stream (EventStream.save and EventStream.open keep one on disk).
stream = stream.to(args.device)
saved = torch.load(args.out / "model.pt", weights_only=True)
names, num_users = saved["names"], saved["num_users"]
model = NAT(len(names), stream.msg_dim).to(args.device)
model.load_state_dict(saved["model"])
model.eval()
user = args.user or table["user"].mode()[0]
if user not in names[:num_users]:
    raise SystemExit(f"--user must be one of the {num_users} users of the table (got {user!r})")
when = int(stream.t[-1]) + 1
if args.time is not None:
    when = int(pandas.to_datetime(args.time, utc=True).timestamp() if are_dates else args.time)
with torch.no_grad():
    candidates = torch.arange(num_users, len(names), device=args.device)
    src, t = torch.tensor([[names.index(user)], [when]], device=args.device)
    score = model(src, candidates[None], t, stream.msg)[0]
past = table[table["user"] == user].groupby("item")["time"].agg(["size", "max"])
print(f"what {user} may take next, at {args.time or 'the end of the table'}:")
for place, best in enumerate(score.topk(min(5, len(score))).indices.tolist(), 1):
    item = names[num_users + best]
    known = f"{past['size'][item]} times, last at {past['max'][item]}" if item in past.index else "never before"
    print(f"{place}. {item:20s} {float(score[best]):6.2f}   ({known})")
