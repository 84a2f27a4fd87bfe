"""The bench's JSON as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bench_tables
from bench_cases import FLOOR, REPEATED, XLA
from bench_contestants import KEEPDROP, LOOP, PLAIN, RECIPE

Json = dict[str, Any]

TIMES = (RECIPE, LOOP, REPEATED, XLA, PLAIN, KEEPDROP, FLOOR)
RATIOS = (RECIPE, LOOP, REPEATED, XLA, PLAIN, FLOOR)
HEADINGS = {
    RECIPE: "`model.predict` in a loop",
    LOOP: "`tf.function` in a loop",
    REPEATED: "`tf.function`, repeated batch",
    XLA: "the same, `jit_compile=True`",
    PLAIN: "plain conversion",
    KEEPDROP: "**keepdrop**",
    FLOOR: "floor",
}


def markdown(report: Json) -> str:
    sections = [_about(report), _main(report["cases"], report["slower"])]
    extra = {
        "head": _head,
        "generator": _generator,
        "series": _series,
        "one_thread": _one_thread,
        "own_python": _own_python,
        "threads_pay": _threads_pay,
        "streams": _streams,
        "tables": bench_tables.markdown,
        "fresh": _fresh,
    }
    sections += [section(report[key]) for key, section in extra.items() if key in report]
    return "\n\n".join(sections) + "\n"


def _about(report: Json) -> str:
    machine, versions = report["machine"], report["versions"]
    quick = " **Quick: too few repetitions to quote.**" if report["quick"] else ""
    return f"""## Performance

{machine["processor"]}, {machine["cores"]} cores, {report["threads"]} threads for everyone; load average before the \
run {machine["load_average"]}.
{", ".join(f"{name} {version}" for name, version in versions.items())}.{quick}

Medians of {report["effort"]["rounds"]} rounds (quartiles in brackets); in a round everyone takes a turn in random \
order, and a ratio is the median of the rounds' ratios."""


def _main(cases: list[Json], slower: list[Json]) -> str:
    cut = sorted({case["recipe_passes"] for case in cases if case["recipe_passes"] < case["samples"]})
    notes = [
        "Milliseconds for all samples of a case: `steps x samples x features x units`, one row unless said. LSTM, GRU "
        "and Bidirectional LSTM have both dropouts at 0.25 and a Dense(2); *head* is an LSTM without dropout, "
        "Dropout(0.5) and Dense(2). The floor is the step's matrix products alone in the same onnxruntime, shared "
        "between single-threaded workers or on one, whichever is faster.",
        *(f"`model.predict`: at most {n} passes were timed, and more are counted as multiples." for n in cut),
    ]
    times = _table(
        ["case", *(HEADINGS[name] for name in TIMES)],
        ([case["name"], *(_spread(case["milliseconds"].get(name)) for name in TIMES)] for case in cases),
    )
    ratios = _table(
        [
            "keepdrop is … times faster than",
            *(HEADINGS[name] for name in RATIOS[:-1]),
            "keepdrop's time / floor's",
        ],
        ([case["name"], *(_ratio(case["ratios"].get(name)) for name in RATIOS)] for case in cases),
    )
    return "\n\n".join([*notes, times, ratios, _slower(slower)])


def _slower(slower: list[Json]) -> str:
    claim = "slower than the plain conversion or than `tf.function` on the repeated batch"
    if not slower:
        return f"No case is {claim}."
    lines = [
        f"- {s['name']}: {s['times_faster']['median']:.2f} times as fast as {HEADINGS[s['against']]}"
        + (" (within the spread of 1)" if s["times_faster"]["high"] >= 1 else "")
        for s in slower
    ]
    return "\n".join([f"Cases {claim} (target: none):", *lines])


def _head(head: Json) -> str:
    return f"""### Dropout before the head only

{head["samples"]} samples take {_spread(head["keepdrop_ms"])} ms. One deterministic pass of the same model, \
converted by tf2onnx ({", ".join(head["operators"])}), takes {_spread(head["deterministic_pass_ms"])} ms in onnxruntime.
Ratio: {_ratio(head["ratio"], most=True)}."""


def _generator(generator: Json) -> str:
    share = generator["share"]
    return f"""### The generator's share

50x100x8x64 on one thread: the graph takes {_spread(generator["whole_ms"])} ms, the same graph with its masks given \
{_spread(generator["masks_given_ms"])} ms; the generator's share is {share["median"]:.1%} \
({share["low"]:.1%} – {share["high"]:.1%}; target at most {share["target"]:.0%}, {_met(share)})."""


def _series(series: Json) -> str:
    titles = {
        "samples": "samples",
        "rows": "rows, 100 samples each",
        "units": "units",
        "steps": "steps",
        "threads": "threads",
        "threads_of_1000_samples": "threads, 1,000 samples",
    }
    tables = [
        _table([titles[name], *(f"{int(size):,}" for size in times)], [["ms", *map(_spread, times.values())]])
        for name, times in series["milliseconds"].items()
    ]
    tenfold = f"Time of 1,000 samples / time of 100: {_ratio(series['thousand_to_hundred'], most=True)}."
    return "\n\n".join(["### What the time follows (keepdrop, LSTM 50x100x8x64 unless said)", *tables, tenfold])


def _one_thread(cases: list[Json]) -> str:
    heading = ["case", "keepdrop, ms", "bare products, ms", "keepdrop / products"]
    return "\n\n".join(["### One thread against the bare products", _compared(heading, cases)])


def _compared(heading: list[str], cases: list[Json]) -> str:
    return _table(
        heading,
        (
            [case["name"], *map(_spread, case["milliseconds"].values()), _ratio(case["ratio"], most=True)]
            for case in cases
        ),
    )


def _own_python(own: Json) -> str:
    rows = [[name, _ratio(value, most=True)] for name, value in own["more"].items()]
    return "\n\n".join(
        [
            "### A call's own Python (one thread, LSTM 2x10x8x32)",
            f"The run of the graph in bare onnxruntime takes {_spread(own['milliseconds'])} ms. Beside it, ms:",
            _table(["call", "beside bare onnxruntime"], rows),
        ]
    )


def _threads_pay(cases: list[Json]) -> str:
    most = list(cases[0]["milliseconds"])[-1]
    return "\n\n".join(
        [
            "### Threads, where they pay and where they would not (LSTM, one row)",
            _compared(["case", "at most 1 thread, ms", f"at most {most}, ms", f"at most {most} / 1"], cases),
        ]
    )


def _streams(streams: list[Json]) -> str:
    before = f"{streams[0]['steps_before']:,} steps"
    heading = ["case", "window", "push", f"push after {before}", "window / push", f"push after {before} / push"]
    rows = [
        [
            stream["name"],
            *map(_spread, stream["milliseconds"].values()),
            _ratio(stream["window_to_push"]),
            _ratio(stream["growth"], most=True),
        ]
        for stream in streams
    ]
    note = (
        "Milliseconds of a call on the whole window and of a push of one step to a stream. *stacked* is two LSTMs with "
        "both dropouts and a Dropout between them, which draws at every step."
    )
    return "\n\n".join(["### A step of a stream (one thread)", note, _table(heading, rows)])


def _fresh(fresh: Json) -> str:
    rows = [
        [
            label,
            _spread(fresh[key]["keepdrop"]),
            _spread(fresh[key]["onnxruntime"]),
            _ratio(fresh[key]["ratio"], most=True),
        ]
        for key, label in (("milliseconds", "start to first prediction, ms"), ("megabytes", "peak memory, MB"))
    ]
    many = fresh["many"]
    return "\n\n".join(
        [
            "### A fresh process (LSTM 50x100x8x64: import, load, 100 samples)",
            _table(["", "keepdrop", "bare onnxruntime", "ratio"], rows),
            f"Peak memory of {many['samples']:,} samples: {many['megabytes']:.0f} MB, of 100 samples "
            f"{many['megabytes_of_100']:.0f} MB: {many['more']:.0f} MB more (target at most {many['target']} MB, "
            f"{_met(many)}).",
        ]
    )


def _table(heading: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(value: Json | None) -> str:
    if value is None:
        return "–"
    return f"{_number(value['median'])} ({_number(value['low'])} – {_number(value['high'])})"


def _ratio(value: Json | None, most: bool = False) -> str:
    if value is None:
        return "–"
    text = f"{_number(value['median'])} ({_number(value['low'])} – {_number(value['high'])})"
    if "target" not in value:
        return text
    return f"{text}; target {'at most ' if most else ''}{value['target']}: {_met(value)}"


def _met(value: Json) -> str:
    return "met" if value["met"] else "**not met**"


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"
