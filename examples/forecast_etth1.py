"""Forecast a week from a week: TPGN of "PGN: The RNN's New Successor is Effective for Long-Range Time Series
Forecasting" (https://arxiv.org/abs/2409.17703) beside a linear map and the last value. ETTh1 holds hourly oil
temperatures of a transformer; where it is not on disk, hourly flights out of New York take its place.

    python examples/forecast_etth1.py                       # nycflights-hourly: needs no download
    python examples/forecast_etth1.py --dataset ETTh1       # MSE 0.106 in the paper
    python examples/forecast_etth1.py --plot forecast.png
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphkit.datasets import load
from graphkit.loader import ForecastWindows
from graphkit.nn import TPGN, LinearForecast, RepeatForecast
from graphkit.transforms import time_features
from graphkit.utils.seed import seed_everything

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="nycflights-hourly", choices=["nycflights-hourly", "ETTh1"])
parser.add_argument("--root", help="folder of the datasets; $GRAPHKIT_ROOT if not given")
parser.add_argument("--variable", help="name of the series; OT of ETTh1 and LGA late of the flights if not given")
parser.add_argument("--seq-len", type=int, default=168)
parser.add_argument("--horizon", type=int, default=168)
parser.add_argument("--channels", type=int, default=2)
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--epochs", type=int, default=25)
parser.add_argument("--patience", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--plot", help="draw the last forecast of the test part into this file")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--fast", action="store_true", help="an epoch of a short window, to see that it runs")
args = parser.parse_args()
if args.fast:
    args.seq_len, args.horizon, args.epochs = 48, 24, 1

try:
    dataset = load(args.dataset, args.root)
except FileNotFoundError as error:
    print(f"{error}; forecasting nycflights-hourly instead")
    dataset = load("nycflights-hourly")
split = dataset.split(protocol="series-60-20-20")
data = dataset.data
wanted = {"ETTh1": "OT", "nycflights-hourly": "LGA late"}[dataset.info.name] if args.variable is None else args.variable
column = data.names.index(wanted)
length, horizon = args.seq_len, args.horizon

# Standardised by the training rows; windows of validation and test may read, but not forecast, rows before the border.
series = data.series[:, column : column + 1]
known = series[: split.train_stop]
series = ((series - known.mean()) / known.std(correction=0)).to(args.device)
windows = ForecastWindows(series, length, horizon, time_features(data.t).to(args.device))
train = torch.arange(split.train_stop - length - horizon + 1)
valid = slice(split.train_stop - length, split.valid_stop - length - horizon + 1)
test = slice(split.valid_stop - length, split.stop - length - horizon + 1)


@torch.no_grad()
def mse(model: nn.Module, part: slice) -> float:
    """Mean over all windows of a part, which are views of the series."""
    model.eval()
    total = torch.zeros((), device=args.device)
    for first in range(part.start, part.stop, 256):
        batch = windows.batch(slice(first, min(first + 256, part.stop)))
        total += F.mse_loss(model(batch.x, batch.marks), batch.y, reduction="sum")
    return float(total) / ((part.stop - part.start) * horizon)


def fit(model: nn.Module) -> nn.Module:
    """The weights of the epoch with the best validation error."""
    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    best, best_valid, waited = copy.deepcopy(model), float("inf"), 0
    for epoch in range(args.epochs):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * 0.9 ** max(epoch - 1, 0)
        model.train()
        order: Tensor = torch.randperm(train.numel(), generator=torch.Generator().manual_seed(1000 * args.seed + epoch))
        for rows in order.to(args.device).split(32):
            batch = windows.batch(rows)
            optimizer.zero_grad()
            F.mse_loss(model(batch.x, batch.marks), batch.y).backward()
            optimizer.step()
        value = mse(model, valid)
        waited += 1
        if value < best_valid:
            best, best_valid, waited = copy.deepcopy(model), value, 0
        if waited == args.patience:
            break
    return best


seed_everything(args.seed)
tpgn = fit(TPGN(length, horizon, period=24, channels=args.channels).to(args.device))
linear = fit(LinearForecast(length, horizon).to(args.device))
scores = {"TPGN": tpgn, "linear": linear, "last value": RepeatForecast(length, horizon)}
if args.plot:
    import matplotlib.pyplot as plt

    last = windows.batch(slice(test.stop - 1, test.stop))
    truth = torch.cat([last.x, last.y], 1).flatten().tolist()
    plt.plot(range(-length, horizon), truth, label=wanted)
    plt.plot(range(horizon), tpgn(last.x, last.marks).detach().flatten().tolist(), label="TPGN")
    plt.legend()
    plt.savefig(args.plot)
print(f"{dataset.info.name}: test MSE " + ", ".join(f"{name} {mse(m, test):.4f}" for name, m in scores.items()))
