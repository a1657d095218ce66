"""Negatives of one event each, drawn without replacement; no list of a source's past or of all candidates is copied."""

from __future__ import annotations

import numpy as np

from graphkit.ops.cpu.parallel import kernel, run
from graphkit.ops.cpu.sample import GAMMA, mix, uniform


@kernel
def _rank(values, low, high, wanted):  # pragma: no cover - compiled
    """First place in the sorted ``values[low:high]`` not below ``wanted``."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _count(start, stop, src, group, true_ptr, true, past_ptr, past, span, wanted, most, sizes):  # pragma: no cover
    for q in range(start, stop):
        low, high = past_ptr[src[q]], past_ptr[src[q] + 1]
        both = 0
        for i in range(true_ptr[group[q]], true_ptr[group[q] + 1]):
            place = _rank(past, low, high, true[i])
            if place < high and past[place] == true[i]:
                both += 1
        sizes[q, 0] = min(most, high - low - both)
        excluded = high - low - both + true_ptr[group[q] + 1] - true_ptr[group[q]]
        sizes[q, 1] = min(wanted - sizes[q, 0], span - excluded)


@kernel
def _fill(
    start, stop, src, group, true_ptr, true, past_ptr, past, span, sizes, ptr, widest, key, out
):  # pragma: no cover - compiled
    drawn = np.full(span, -1, np.int64)
    removed, extra = np.empty(widest, np.int64), np.empty(widest, np.int64)
    for q in range(start, stop):
        stream = mix(key + (q + 1) * GAMMA)
        low, high = past_ptr[src[q]], past_ptr[src[q] + 1]
        # True destinations: those the source met before, by place among its past, and the others.
        num_removed, num_extra = 0, 0
        for i in range(true_ptr[group[q]], true_ptr[group[q] + 1]):
            place = _rank(past, low, high, true[i])
            if place < high and past[place] == true[i]:
                removed[num_removed] = place - low
                num_removed += 1
            else:
                extra[num_extra] = true[i]
                num_extra += 1
        slot = ptr[q]
        # Floyd's method draws places among what is left of the past.
        pool = high - low - num_removed
        for j in range(pool - sizes[q, 0], pool):
            place = np.int64(uniform(stream, slot - ptr[q]) * (j + 1))
            if drawn[place] == 2 * q:
                place = j
            drawn[place] = 2 * q
            for i in range(num_removed):
                if removed[i] <= place:
                    place += 1
            out[slot] = past[low + place]
            slot += 1
        # And places among all candidates that are neither past nor true.
        pool = span - (high - low) - num_extra
        if sizes[q, 1] == pool:
            behind, other = low, 0
            for v in range(span):
                if behind < high and past[behind] == v:
                    behind += 1
                elif other < num_extra and extra[other] == v:
                    other += 1
                else:
                    out[slot] = v
                    slot += 1
            continue
        for j in range(pool - sizes[q, 1], pool):
            place = np.int64(uniform(stream, slot - ptr[q]) * (j + 1))
            if drawn[place] == 2 * q + 1:
                place = j
            drawn[place] = 2 * q + 1
            # The candidate with that many allowed ones before it.
            below, above = place, span - 1
            while below < above:
                middle = (below + above) >> 1
                excluded = _rank(past, low, high, middle + 1) - low + _rank(extra, 0, num_extra, middle + 1)
                if middle + 1 - excluded <= place:
                    below = middle + 1
                else:
                    above = middle
            out[slot] = below
            slot += 1


def draw(
    src: np.ndarray,
    group: np.ndarray,
    true_ptr: np.ndarray,
    true: np.ndarray,
    past_ptr: np.ndarray,
    past: np.ndarray,
    span: int,
    wanted: int,
    most: int,
    key: int,
) -> tuple[np.ndarray, np.ndarray]:
    """For each query at most ``most`` of its source's past, then others of the ``span`` candidates 0, 1, ...

    Args:
        src: ``[Q]`` source of each query.
        group: ``[Q]`` which true destinations are left out.
        true_ptr, true: their lists, sorted and distinct.
        past_ptr, past: the past of each source, sorted and distinct.
        wanted: number of negatives, or all if there are fewer.
        key: of the random numbers.

    Returns:
        ``ptr`` ``[Q + 1]`` and the negatives, int32 if ids fit.
    """
    sizes = np.empty((len(src), 2), np.int64)
    run(_count, len(src), src, group, true_ptr, true, past_ptr, past, span, wanted, most, sizes)
    ptr = np.concatenate([np.zeros(1, np.int64), sizes.sum(1).cumsum()])
    out = np.empty(ptr[-1], np.int32 if span <= 2**31 else np.int64)
    widest = int(np.diff(true_ptr).max(initial=0))
    args = (src, group, true_ptr, true, past_ptr, past, span, sizes, ptr, widest, np.int64(key), out)
    run(_fill, ptr, *args, grain=65536)
    return ptr, out
