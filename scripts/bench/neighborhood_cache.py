"""NAT's neighbourhood caches alone, joined for and written by a stream of random events: ours against plain PyTorch.

A batch is joined (source with destination), then both ends get each other at hop 1 and each other's neighbours at hop
2, as in training, without any neural network. 100,000 nodes, caches already filled. The caches of both must be the
same at the end. Runs on the GPU if there is one; ``gb_s`` then counts the bytes that must move, and ``of_copy`` is
their share of the rate of a copy. There ours is timed once more with a batch recorded as one CUDA graph. Run on a quiet
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from harness import allocated_mb, captured, interleave, parser, report
from torch import Tensor

from graphkit.nn import NeighborhoodCache
from graphkit.ops import neighborhood_cache as ops

NODES = 100_000


class Events(NamedTuple):
    src: Tensor
    dst: Tensor
    t: Tensor
    e_id: Tensor


class Way(NamedTuple):
    """How caches are joined and written."""

    join: Callable[..., Tensor]
    insert: Callable[..., None]


OURS = Way(ops.joint_histogram, ops.insert)
PLAIN = Way(ops.joint_histogram_reference, ops.insert_reference)


def random_events(nodes: int, first: int, number: int, device: str) -> Events:
    generator = torch.Generator().manual_seed(first)
    src, dst = torch.randint(nodes, (2, number), generator=generator).to(device)
    e_id = torch.arange(first, first + number, device=device)
    return Events(src, dst, e_id // 4, e_id)


def show(cache: NeighborhoodCache, events: Events, way: Way = OURS) -> Tensor:
    """Join the ends of each event, then write them into each other's caches; what the join found."""
    src, dst, t, e_id = events
    found = way.join(cache.key, cache.bounds, src, dst)
    ends, other = torch.stack([src, dst], 1).view(-1), torch.stack([dst, src], 1).view(-1)
    t, e_id = t.repeat_interleave(2), e_id.repeat_interleave(2)
    rep = cache.rep.new_zeros(ends.numel(), cache.rep_dim)
    if len(cache.sizes) == 2:
        # Read where they are: the columns of hop 1, none of which are written here.
        _insert(cache, way, 2, ends, cache.columns(1), other)
    _insert(cache, way, 1, ends, tuple(part.unsqueeze(1) for part in (other, e_id, t, rep)))
    _insert(cache, way, 0, ends, tuple(part.unsqueeze(1) for part in (ends, e_id, t, rep)))
    return found


def _insert(
    cache: NeighborhoodCache, way: Way, hop: int, owner: Tensor, offer: tuple[Tensor, ...], source: Tensor | None = None
) -> None:
    way.insert(cache.columns(hop), owner, offer, cache.replace_prob, cache.stream, cache.draws, source)
    cache.draws.add_(owner.numel() * offer[0].size(1))


def bytes_an_event(cache: NeighborhoodCache, events: Events) -> float:
    """The bytes that a batch must move, an event: keys that are joined, offered and looked up, and entries written."""
    before = cache.e_id.clone()
    show(cache, events)
    written = float((cache.e_id != before).sum()) / events.src.numel()
    keys = 2 * 8 * sum(cache.sizes) * len(cache.sizes)  # of both ends: joined, and again if there is a hop 2
    return keys + 4 * ops.NUM_CODES + 2 * written * (24 + 4 * cache.rep_dim)


def measure(
    sizes: tuple[int, ...], batch_size: int, number: int, past: int, repeats: int, device: str, nodes: int = NODES
) -> dict[str, Any]:
    cuda = device == "cuda"
    caches = [NeighborhoodCache(nodes, sizes, replace_prob=0.7).to(device) for _ in range(3 if cuda else 2)]
    ours, plain = caches[:2]
    for first in range(0, past, 1 << 16):
        show(ours, random_events(nodes, first, min(1 << 16, past - first), device))
    plain.load_snapshot(ours.snapshot())
    number = max(number // batch_size, 1) * batch_size
    stream = random_events(nodes, past, number, device)
    batches = [Events(*parts) for parts in zip(*(part.split(batch_size) for part in stream), strict=True)]

    def run(cache: NeighborhoodCache, way: Way) -> Callable[[], None]:
        def turn() -> None:
            for batch in batches:
                show(cache, batch, way)
            if cuda:
                torch.cuda.synchronize()

        return turn

    cases = {"ours": run(ours, OURS), "peer": run(plain, PLAIN)}
    same = [torch.equal(show(ours, batches[0]), show(plain, batches[0], PLAIN))]
    if cuda:
        cases["captured"] = captured_turn(caches[2], batches)
        caches[2].load_snapshot(ours.snapshot())
    memory = {name: _peak_mb(turn, cuda) for name, turn in cases.items()}
    times = interleave(cases, repeats, warmup=1)
    for other in caches[1:]:
        same += map(torch.equal, ours.snapshot().values(), other.snapshot().values())
    if not all(same):
        raise AssertionError("ours, captured or not, and plain PyTorch leave different caches")
    moved = bytes_an_event(ours, batches[0])
    row = {
        "case": f"caches of {' and '.join(map(str, sizes))}, batches of {batch_size}",
        "events": number,
        "ours_ms": times["ours"],
        "peer": "plain PyTorch",
        "peer_ms": times["peer"],
        "ratio": times["peer"] / times["ours"],
        "ours_events_s": 1000 * number / times["ours"],
        "peer_events_s": 1000 * number / times["peer"],
        "bytes_event": moved,
        "gb_s": number * moved / times["ours"] / 1e6,
        "ours_peak_mb": memory["ours"],
        "peer_peak_mb": memory["peer"],
    }
    if cuda:
        row |= {"captured_ms": times["captured"], "captured_events_s": 1000 * number / times["captured"]}
    print(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()))
    return row


def captured_turn(cache: NeighborhoodCache, batches: list[Events]) -> Callable[[], None]:
    """The same turn with a batch as one CUDA graph; changes the cache."""
    static = Events(*(part.clone() for part in batches[0]))
    graph = captured(lambda: show(cache, static))

    def turn() -> None:
        for batch in batches:
            for place, part in zip(static, batch, strict=True):
                place.copy_(part)
            graph.replay()
        torch.cuda.synchronize()

    return turn


def _peak_mb(turn: Callable[[], None], cuda: bool) -> float:
    if not cuda:
        return allocated_mb(turn)
    from gpu_kernels import peak_mb

    return peak_mb(turn)


def measure_all(
    number: int, past: int, repeats: int, device: str, nodes: int = NODES, batch_sizes: Sequence[int] = (200, 1 << 16)
) -> list[dict[str, Any]]:
    rows = [  # at most 256 batches a turn: small ones are slow in plain PyTorch
        measure(sizes, batch_size, min(number, 256 * batch_size), past, repeats, device, nodes)
        for sizes in ((32, 16), (16,))
        for batch_size in batch_sizes
    ]
    if device == "cuda":
        from gpu_kernels import copy_rate

        rate = copy_rate()
        print(f"{torch.cuda.get_device_name()}: copy {rate:.0f} GB/s")
        rows = [{**row, "of_copy": row["gb_s"] / rate} for row in rows]
    return rows


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=1 << 18, help="events of one timed turn, at most 256 batches")
    arguments.add_argument("--past", type=int, default=1 << 21, help="events that fill the caches first")
    arguments.add_argument("--nodes", type=int, default=NODES)
    arguments.add_argument("--batch-sizes", type=int, nargs="+", default=[200, 1 << 16])
    arguments.add_argument("--device", choices=("cpu", "cuda"), default=device)
    options = arguments.parse_args()
    rows = measure_all(
        options.events, options.past, options.repeats, options.device, options.nodes, options.batch_sizes
    )
    report("neighborhood_cache" + ("_gpu" if options.device == "cuda" else ""), rows, options.out)


if __name__ == "__main__":
    main()
