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

from graphkit.datasets import EventSplit, EventStream
from graphkit.datasets.tgb_negatives import StoredNegatives
from graphkit.loader import EventLoader
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


def seconds(column: pandas.Series) -> pandas.Series:
    """Since 1970, from dates; numbers stay what they are."""
    if pandas.api.types.is_numeric_dtype(column):
        return column
    dates = pandas.to_datetime(column, utc=True, format="ISO8601")
    return (dates - pandas.Timestamp(0, tz="UTC")) // pandas.Timedelta(seconds=1)


# 1. The table as a stream. As text, "007" and "7" are two users, and one called "NA" is no missing cell.
path = args.csv or invent(args.out / "interactions.csv")
table = pandas.read_csv(path, dtype={"user": str, "item": str}, na_filter=False)
features = [name for name in table.columns if name not in ("user", "item", "time")]
if len(table.columns) != len(features) + 3:
    raise SystemExit(f"{path} must have the columns user, item and time (got {', '.join(table.columns)})")
if table[["user", "item"]].eq("").any(axis=None):
    raise SystemExit("a user or an item is missing; drop such rows first")
user_id, users = pandas.factorize(table["user"])
item_id, items = pandas.factorize(table["item"])
# Users are 0, 1, ..., items come after them. Where both ends are of one kind (people who write to people), number them
# together: pandas.factorize(pandas.concat([table["user"], table["item"]])).
names = [*users, *items]
frame = table.assign(src=user_id, dst=item_id + len(users), t=seconds(table["time"]))
stream = EventStream.from_pandas(frame, msg=features, num_nodes=len(names), sort=True)
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
stream = stream.to(args.device)
for src, dst, t, e_id, _ in EventLoader(stream, split.ranges[2]):
    model.update_state(src, dst, t, e_id, stream.msg)
torch.save({"model": model.state_dict(), "names": names, "num_users": len(users)}, args.out / "model.pt")

# 4. Another day, another process: weights, state and names are in the file. Messages of past events are read from the
# stream (EventStream.save and EventStream.open keep one on disk).
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
    when = int(seconds(pandas.Series([args.time]).astype(table["time"].dtype))[0])
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
