"""Calibration measured on public series: coverage, width, interval score and CRPS, static and on streams.

    scripts/calibration            # the tables of docs/calibration.md, about 20 minutes on two cores
    scripts/calibration --quick    # two series and short trainings, about two minutes

Each series is cut in the order of time: the first half trains an ordinary recurrent network, the rest is a pool on
which five rolling origins calibrate on what is before and are judged on what comes after, with a gap of window and
horizon.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import keepdrop
from calibration_data import EVERY, FOLDER, Floats, Series, every
from keepdrop.calibration import conformal, feedback, metrics
from keepdrop_exporter.cli import silent_start

with silent_start():
    import keras

    from keepdrop_exporter import export

LEVELS = (0.5, 0.8, 0.9, 0.95)
SAMPLES = 200
ORIGINS = 5
# Of the optimizer: a short series needs more epochs.
BATCH, LEAST_STEPS = 64, 600
# What the design set out to reach: the range of the coverage at 90 %, and the width in standard deviations of training.
TARGETS = {
    "wind": ((0.90, 0.95), 1.95),
    "pm25": ((0.89, 0.93), 2.15),
    "seattle": ((0.87, 0.91), 1.15),
    "bike": ((0.84, 0.92), None),
    "sf": ((0.84, 0.92), None),
}


class Pool(NamedTuple):
    """Answers to the rows after the training: medians, variances, what was observed, and the samples' own figures."""

    name: str
    gap: int
    ahead: int
    median: Floats  # [n]
    variance: Floats  # [n]
    y: Floats  # [n]
    ends: Floats  # [n, 2 levels]
    crps: Floats  # [n]

    def part(self, where: Any) -> Pool:
        return Pool(*self[:3], *(array[where] for array in self[3:]))


def trained(series: Series, seed: int, epochs: int) -> tuple[Any, Floats, Floats, int]:
    """A network trained on the first half, its rows, targets and where they begin to be new."""
    x, y = series.rows()
    half = len(series.columns) // 2
    mean, std = series.columns[:half].mean(axis=0), series.columns[:half].std(axis=0)
    x, y = ((x - mean) / std).astype(np.float32), (y - mean[0]) / std[0]
    train = half - series.window - series.ahead
    keras.utils.set_random_seed(seed)
    layer = keras.layers.LSTM if seed % 2 else keras.layers.GRU
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layer(32, dropout=0.1, recurrent_dropout=0.1),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    epochs = max(epochs, LEAST_STEPS * BATCH // train)
    model.fit(x[:train], y[:train], epochs=epochs, batch_size=BATCH, verbose=0)
    return model, x, y, half


def pool_of(series: Series, seed: int, epochs: int) -> tuple[Pool, Any]:
    model, x, y, half = trained(series, seed, epochs)
    path = FOLDER / f"{series.name}_{seed}.onnx"
    export(model, path)
    artifact = keepdrop.load(path)
    parts = []
    for start in range(half, len(x), 500):
        block = slice(start, start + 500)
        p = artifact.predict(x[block], samples=SAMPLES, rows=np.arange(start, start + len(x[block])))
        draws = p.samples[..., 0].astype(float)
        ends = np.quantile(draws, [end for L in LEVELS for end in ((1 - L) / 2, (1 + L) / 2)], axis=0).T
        found = (np.median(draws, axis=0), p.exact_variance[:, 0], y[block], ends)
        parts.append((*found, metrics.crps_samples(draws, y[block])))
    gap = series.window + series.ahead
    return Pool(series.name, gap, series.ahead, *(np.concatenate(p) for p in zip(*parts, strict=True))), (
        artifact,
        x,
        half,
    )


def origins(n: int, gap: int) -> list[tuple[Floats, Floats]]:
    """Five rolling origins: all before one calibrates, the next sixth of the pool judges."""
    edges = np.linspace(0.35 * n, n, ORIGINS + 1).astype(int)
    return [(np.arange(start - gap), np.arange(start, stop)) for start, stop in zip(edges, edges[1:], strict=False)]


def judged(fitted: conformal.Fitted, of: Pool) -> dict[str, float]:
    scale = fitted.spread.scale(of.variance[:, None])[:, 0]
    found = {}
    for i, level in enumerate(LEVELS):
        ends = conformal.score_quantiles([(1 - level) / 2, (1 + level) / 2], fitted.knots)
        low, high = of.median + ends[0] * scale, of.median + ends[1] * scale
        found |= figures(f"{level:g}", low, high, of.y, level)
        found |= figures(f"raw {level:g}", of.ends[:, 2 * i], of.ends[:, 2 * i + 1], of.y, level)
    quantiles = of.median + conformal.score_quantiles(metrics.MIDPOINTS, fitted.knots)[:, None] * scale
    found["crps"] = float(np.mean(metrics.crps_quantiles(quantiles, of.y)))
    return found | {"raw crps": float(np.mean(of.crps)), "forward": fitted.forward}


def figures(name: str, low: Floats, high: Floats, y: Floats, level: float) -> dict[str, float]:
    inside = (low <= y) & (y <= high)
    score = metrics.interval_score(low, high, y, level)
    return {
        f"cover {name}": float(inside.mean()),
        f"width {name}": float(np.mean(high - low)),
        f"score {name}": float(score.mean()),
        f"finite {name}": float(np.isfinite(low + high).mean()),
    }


def fit(of: Pool) -> conformal.Fitted:
    return conformal.chosen((of.y - of.median)[:, None], of.variance[:, None])


def static(pool: Pool) -> dict[str, float]:
    found = [judged(fit(pool.part(c)), pool.part(e)) for c, e in origins(len(pool.y), pool.gap)]
    return {key: float(np.mean([f[key] for f in found])) for key in found[0]}


def streamed(pool: Pool) -> dict[str, float]:
    """What learns from truths that come `ahead` rows later, begun with the calibration of the first 35 %."""
    start = int(0.35 * len(pool.y))
    fitted, of = fit(pool.part(np.arange(start - pool.ahead))), pool.part(slice(start, None))
    learner = feedback.Tracker("y", fitted.knots[None], fitted.spread.a, fitted.spread.b)
    arrays = learner.empty(1)
    learner.start(arrays, 0)
    scales, quantiles = [], []
    for i in range(len(of.y)):
        if i >= pool.ahead:
            learner.observe(arrays, 0, 0, i - pool.ahead, of.y[i - pool.ahead])
        scale, issued = learner.issue(arrays, 0, i, of.median[i], of.variance[i])
        scales.append(scale[0])
        quantiles.append(issued[0])
    found, scale, issued_all = judged(fitted, of), np.array(scales), np.array(quantiles)
    for level in LEVELS:
        ends = [np.array([np.interp(tau, feedback.TRACKED, q) for q in issued_all]) for tau in ends_of(level)]
        low, high = of.median + ends[0] * scale, of.median + ends[1] * scale
        found |= figures(f"stream {level:g}", low, high, of.y, level)
    taken = np.array([np.interp(metrics.MIDPOINTS, feedback.TRACKED, q) for q in issued_all]).T
    found["stream crps"] = float(np.mean(metrics.crps_quantiles(of.median + taken * scale, of.y)))
    return found


def ends_of(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    print(f"\n{title}\n")
    print(f"| {' | '.join(header)} |\n|---|{'--:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def static_table(pools: list[Pool]) -> None:
    rows = []
    for pool in pools:
        f = static(pool)
        (least, most), width = TARGETS[pool.name]
        ratio = [f"{f['score 0.9'] / f['score raw 0.9']:.2f}", f"{f['crps'] / f['raw crps']:.2f}"]
        covers = [f"{f[f'cover {level:g}']:.3f}" for level in LEVELS]
        aim = f"{least:.2f} to {most:.2f}" + (f"; {1.03 * width:.2f}" if width else "")
        rows.append(
            (pool.name, f"{len(pool.y):,}", f"{f['cover raw 0.9']:.3f}", *covers, f"{f['forward']:.3f}",
             f"{f['width 0.9']:.2f}", *ratio, aim)
        )  # fmt: skip
    table(
        "Static: means over seeds of five rolling origins",
        ("series", "rows", "raw 90 %", *(f"{level:.0%}" for level in LEVELS), "forward", "width", "score / raw",
         "CRPS / raw", "aim: cover 90 %; width"),
        rows,
    )  # fmt: skip


def stream_table(pools: list[Pool]) -> None:
    rows, off = [], []
    for pool in pools:
        f = streamed(pool)
        covers = [f"{f[f'cover stream {level:g}']:.3f}" for level in LEVELS]
        off.append([abs(f[f"cover stream {level:g}"] - level) for level in LEVELS])
        ratios = [f"{f['score stream 0.9'] / f['score 0.9']:.2f}", f"{f['stream crps'] / f['crps']:.2f}"]
        infinite = max(1 - f[f"finite stream {level:g}"] for level in LEVELS)
        rows.append((pool.name, str(pool.ahead), f"{f['cover 0.9']:.3f}", *covers, f"{infinite:.0%}", *ratios))
    header = ("series", "truth after", "static 90 %", *(f"{level:.0%}" for level in LEVELS), "infinite")
    table("Streams: static beside what learns from truths", (*header, "score / static", "CRPS / static"), rows)
    print(f"\nmean and worst |cover - level|: {np.mean(off, axis=0).round(4)}, {np.max(off, axis=0).round(4)}")


def shuffled_table(pools: list[Pool]) -> None:
    """Random halves: the bound of exchangeable rows holds, and flatters where time matters."""
    rows = []
    for pool in pools:
        order = np.random.default_rng(0).permutation(len(pool.y))
        c, e = np.array_split(order, 2)
        f = judged(fit(pool.part(c)), pool.part(e))
        bound = [2.6 * np.sqrt(level * (1 - level) * (1 / len(c) + 1 / len(e))) for level in LEVELS]
        off = [abs(f[f"cover {level:g}"] - level) for level in LEVELS]
        told = (f"{o:.3f} of {b:.3f}" for o, b in zip(off, bound, strict=True))
        rows.append((pool.name, *told))
    table("Shuffled: |cover - level| and its bound", ("series", *(f"{level:.0%}" for level in LEVELS)), rows)


def rows_table(pools: list[Pool]) -> None:
    """How far the coverage at 90 % is off by the number of shuffled calibration rows: two standard deviations."""
    rows = []
    for pool in pools:
        cells = []
        for n in (40, 100, 200, 400, 1000):
            covers = []
            for seed in range(40):
                order = np.random.default_rng(seed).permutation(len(pool.y))
                if len(order) < n + 200:
                    continue
                covers.append(judged(fit(pool.part(order[:n])), pool.part(order[n:]))["cover 0.9"])
            cells.append(f"{np.mean(covers):.3f} +- {2 * np.std(covers):.3f}" if covers else "")
        rows.append((pool.name, *cells))
    table("Coverage at 90 % by the number of calibration rows", ("series", "40", "100", "200", "400", "1,000"), rows)


def samples_table(pool: Pool, opened: tuple[Any, Floats, int]) -> None:
    """Calibrated at 200 samples, used at fewer."""
    artifact, x, half = opened
    fitted = fit(pool.part(slice(None, len(pool.y) // 2)))
    start = len(pool.y) // 2 + pool.gap
    rows = np.arange(start, min(len(pool.y), start + 600))
    cells = []
    for samples in (10, 25, 50, 100, 200):
        p = artifact.predict(x[half + rows], samples=samples, rows=half + rows)
        part = pool.part(rows)._replace(median=p.quantile(0.5)[:, 0].astype(float), variance=p.exact_variance[:, 0])
        cells.append(f"{judged(fitted, part)['cover 0.9']:.3f}")
    table(
        f"Coverage at 90 % of {pool.name}, calibrated at 200 samples, by the samples of an answer",
        ("samples", "10", "25", "50", "100", "200"),
        [("cover", *cells)],
    )


def classes_table(epochs: int) -> None:
    """Digits: probabilities and label sets, through keepdrop.calibrate and keepdrop.evaluate."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.4), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:900], y[:900], epochs=max(epochs, 20), batch_size=32, verbose=0)
    export(model, FOLDER / "digits.onnx")
    calibrated = keepdrop.calibrate(keepdrop.load(FOLDER / "digits.onnx"), x[900:1350], y[900:1350])
    found = keepdrop.evaluate(calibrated, x[1350:], y[1350:]).outputs[0]
    rows = []
    for way, c in found.classes.items():
        sets = ("", "") if c.set_coverage is None else (f"{c.set_coverage:.3f}", f"{c.set_size:.2f}")
        rows.append(
            (way, f"{c.accuracy:.3f}", f"{c.log_score:.3f}", f"{c.brier:.3f}", f"{c.calibration_error:.3f}", *sets)
        )
    temperature = calibrated.calibration.classes[0].temperature
    header = ("digits", "accuracy", "log score", "Brier", "ECE", "90 % sets hold", "labels a set")
    table(f"Classes: digits, temperature {temperature:.2f}", header, rows)


def cost_table(pool: Pool, opened: tuple[Any, Floats, int]) -> None:
    """Medians of ratios within this process: an observation's interval beside the samples' own, and a truth's cost."""
    artifact, x, half = opened
    record = keepdrop.calibrate(artifact, x[half : half + 400], pool.y[:400], samples=50)
    plain, calibrated = [], []
    for i in range(40):
        rows = x[half + i : half + i + 1]
        for model, seconds, interval in ((artifact, plain, "self"), (record, calibrated, "observation")):
            start = time.thread_time()
            p = model.predict(rows, samples=100)
            (p if interval == "self" else p.observation).interval(0.9)
            seconds.append(time.thread_time() - start)
    ratios = [b / a for a, b in zip(plain, calibrated, strict=True)]
    learner = feedback.Tracker(
        "y", np.array(record.calibration.values[0].scores[0].knots)[None], np.ones(1), np.ones(1)
    )
    arrays = learner.empty(1)
    learner.start(arrays, 0)
    start = time.thread_time()
    for i in range(2000):
        learner.issue(arrays, 0, i, 0.0, 1.0)
        learner.observe(arrays, 0, 0, i, 0.3)
    each = (time.thread_time() - start) / 2000
    push = statistics.median(plain)
    print(
        f"\nAn answer with an observation's interval costs {statistics.median(ratios) - 1:+.1%} beside the samples' "
        f"own ({push * 1e3:.2f} ms); to note an answer and learn from a truth takes {each * 1e6:.0f} microseconds."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two series, short trainings")
    parser.add_argument("--series", nargs="*", choices=list(EVERY), help="only these")
    parser.add_argument("--seeds", type=int, default=1, help="networks for each series")
    options = parser.parse_args()
    names = options.series or (["seattle", "wind"] if options.quick else list(EVERY))
    epochs = 4 if options.quick else 10
    pools, opened = [], []
    for series in every(names):
        for seed in range(1, options.seeds + 1):
            began = time.monotonic()
            pool, how = pool_of(series, seed, epochs)
            pools.append(pool)
            opened.append(how)
            print(f"{series.name}, seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    static_table(pools)
    stream_table(pools)
    shuffled_table(pools)
    rows_table(pools)
    samples_table(pools[0], opened[0])
    classes_table(epochs)
    cost_table(pools[0], opened[0])


if __name__ == "__main__":
    Path(FOLDER).mkdir(exist_ok=True)
    main()
