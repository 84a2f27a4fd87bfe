"""What an export takes after the imports, stage by stage; each case in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keepdrop_exporter.options import silent_start

CASES = {"readme": "the README's model (LSTM of 32 units, 24 steps)", "long": "two LSTMs, 400 steps"}
STAGES = ("load", "plan", "trace", "convert", "verify", "cost")


def export_table(rounds: int) -> str:
    """The table of the report, in Markdown: each stage's processor seconds, of the round with the least in all."""
    head = [f"| model | {' | '.join(STAGES)} | all |", "| --- |" + " ---: |" * (len(STAGES) + 1)]
    rows = []
    for case, title in CASES.items():
        best = min((_measured(case) for _ in range(rounds)), key=lambda seconds: sum(seconds.values()))
        cells = [f"{best[stage]:.2f}" for stage in STAGES]
        rows.append(f"| {title} | {' | '.join(cells)} | {sum(best.values()):.1f} |")
    return "\n".join([*head, *rows])


def _measured(case: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, case], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _export(case: str) -> None:
    with silent_start():
        import keras

        from keepdrop_exporter import export

    layers = keras.layers
    dropped = {"dropout": 0.25, "recurrent_dropout": 0.25}
    bodies = {
        "readme": lambda: [keras.Input((24, 1)), layers.LSTM(32, **dropped), layers.Dense(1)],
        "long": lambda: [
            keras.Input((400, 8)),
            layers.LSTM(64, return_sequences=True, **dropped),
            layers.LSTM(64, **dropped),
            layers.Dense(1),
        ],
    }
    begins: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        keras.Sequential(bodies[case]()).save(path)
        export(path, path.with_suffix(".onnx"), progress=lambda stage: begins.append((stage, time.process_time())))
    begins.append(("", time.process_time()))
    found = {stage: end - begin for (stage, begin), (_, end) in zip(begins, begins[1:], strict=False)}
    print(json.dumps(found))


if __name__ == "__main__":
    _export(sys.argv[1])
