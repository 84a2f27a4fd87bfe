"""Mutated artifacts and inputs: an error of ours or a correct answer, never a crash, a hang or a silent wrong answer.

Each case is a kind, an artifact and a number that seeds it; cases run in worker processes, since a crash in native code
ends a process, under a watchdog and a bound on memory. Run as a script for as many cases as wanted:

    python tests/runtime/fuzz.py --cases 100000
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import functools
import gzip
import io
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import keepdrop
from keepdrop.artifact import onnx_file, wire
from keepdrop.artifact.metadata import CHECKSUM_KEY, METADATA_KEY, Metadata
from keepdrop.files import sources
from keepdrop.files.skipped import Skipped
from keepdrop.run.request import check

DATA = Path(__file__).parent / "data"
ARTIFACTS = ("forecaster", "sentence")
SAMPLES, SEED = 3, 7
# Seconds without a word from a worker that count as a hang; a case takes some hundredths.
PATIENCE = 20.0
MEMORY = 4 << 30


class Case(NamedTuple):
    """A mutation: `seed` determines it."""

    kind: str
    artifact: str
    seed: int


def inputs(artifact: str) -> Any:
    rng = np.random.default_rng(0)
    if artifact == "forecaster":
        return rng.standard_normal((2, 5, 2)).astype(np.float32)
    return {"words": rng.integers(0, 11, (2, 6)), "extra": rng.standard_normal((2, 4)).astype(np.float32)}


def fields(data: bytes) -> Iterator[tuple[int, int, int, str]]:
    """Extent of each field of a model, from its tag to its end, and the key of an entry of the metadata."""
    position = 0
    for tag, start, stop in wire.fields(data, 0, len(data)):
        key = onnx_file._entry(data, start, stop)[0] if tag == onnx_file.MODEL_METADATA else ""
        yield tag, position, stop, key
        position = stop


def without(data: bytes, *keys: str) -> bytes:
    """The model without these entries of its metadata."""
    return b"".join(data[start:stop] for _, start, stop, key in fields(data) if key not in keys)


def with_entry(data: bytes, key: str, value: str) -> bytes:
    """The model with one more entry of metadata."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size >= 0x80:
            size, length = size >> 7, length + bytes([size & 0x7F | 0x80])
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    return data + field(14, field(1, key.encode()) + field(2, value.encode()))


def signed(data: bytes) -> bytes:
    """The model with a checksum that is right."""
    data = without(data, CHECKSUM_KEY)
    return with_entry(data, CHECKSUM_KEY, onnx_file.checksum(data))


def torn(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, left out, doubled or moved, as a bad disk or a broken copy has it."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, length = rng.randrange(len(content)), rng.choice((1, 2, 4, 64, 4096))
        match rng.randrange(7):
            case 0 | 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = rng.randbytes(length)
            case 5:
                content[at:at] = content[at : at + length]
            case 6:
                content[at : at + length] = bytes(len(content[at : at + length]))
        if rng.random() < 0.05:
            del content[rng.randrange(len(content) + 1) :]
        if not content:
            break
    return bytes(content)


NASTY = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, 0.5, -0.5, 1.5, 1e308, float("nan"),
    float("inf"), "", "x", "1", "seed", "float32", "int64", "float99", "\0", "\ud800", [], [None], [1, None], [[]], {},
    {"a": 1}, [2**62, 2**62], [-1, 2], [0],
]  # fmt: skip


def confused(rng: random.Random, text: str) -> str:
    """The metadata with some value, key or order changed."""
    root = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(root))
        holder, key = rng.choice(places)
        match rng.randrange(7):
            case 0 | 1 | 2:
                holder[key] = rng.choice(NASTY)
            case 3:
                del holder[key]
            case 4:
                holder[key] = copy.deepcopy(rng.choice(places)[0])
            case 5 if isinstance(holder, list):
                holder.insert(key, rng.choice([rng.choice(NASTY), holder[key]]))
            case 5:
                holder[rng.choice(["extra", "name", "shape", "contract"])] = rng.choice(NASTY)
            case _:
                other, place = rng.choice(places)
                if key in _keys(holder) and place in _keys(other):
                    holder[key], other[place] = other[place], holder[key]
        if not list(_places(root)):
            break
    try:
        return json.dumps(root)
    except (ValueError, RecursionError):  # what was swapped into itself
        return text


def _keys(holder: Any) -> Any:
    return range(len(holder)) if isinstance(holder, list) else holder.keys()


def _places(holder: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if isinstance(holder, (dict, list)) and depth < 8:
        for key in list(_keys(holder)):
            yield holder, key
            yield from _places(holder[key], depth + 1)


def rebuilt(rng: random.Random, data: bytes) -> bytes:
    """The graph changed as a program would, all of it well-formed: operators, names, types, attributes, constants."""
    import onnx

    model = onnx.load_from_string(data)
    graphs = [model.graph, *(a.g for n in model.graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        graph = rng.choice(graphs)
        node = rng.choice(graph.node)
        names = [name for n in graph.node for name in (*n.input, *n.output)]
        match rng.randrange(10):
            case 0:
                node.op_type = rng.choice(["Add", "Mul", "Loop", "If", "Scan", "LSTM", "Gather", "Dropout", "Reshape"])
            case 1:
                node.domain = rng.choice(["com.microsoft", "ai.onnx", "ai.onnx.ml", "x"])
            case 2 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice(names)
            case 3 if node.output:
                node.output[rng.randrange(len(node.output))] = rng.choice(names)
            case 4 if node.attribute:
                attribute = rng.choice(node.attribute)
                attribute.i = rng.choice([0, -1, 1, 7, 99, 2**31, -(2**63), 2**63 - 1])
                attribute.ints[:] = [rng.choice([0, -1, 1, 2**40]) for _ in attribute.ints]
            case 5 if graph.initializer:
                tensor = rng.choice(graph.initializer)
                tensor.dims[:] = rng.choice([[], [0], [-1], [2**40], [2**62, 4], [*tensor.dims, 1], [*tensor.dims][1:]])
            case 6 if graph.initializer:
                rng.choice(graph.initializer).data_type = rng.randrange(0, 24)
            case 7 if graph.initializer:
                tensor = rng.choice(graph.initializer)
                tensor.raw_data = torn(rng, tensor.raw_data or b"\0")
            case 8:
                value = rng.choice([*graph.input, *graph.output])
                value.type.tensor_type.elem_type = rng.randrange(0, 20)
            case _:
                graph.node.remove(node)
                if not graph.node:
                    break
    return model.SerializeToString()


def readings() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((60, 2)).astype(np.float32).round(3)


def examples() -> np.ndarray:
    return np.stack([readings()[i : i + 5] for i in range(56)])


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, examples())
    return file.getvalue()


def npz(save: Callable[..., None] = np.savez) -> bytes:
    file = io.BytesIO()
    save(file, window=examples())
    return file.getvalue()


def csv() -> bytes:
    lines = [f"2024-01-{i // 24 + 1:02}T{i % 24:02}:00Z,s{i // 30},{a},{b}" for i, (a, b) in enumerate(readings())]
    return "\n".join(["when,id,a,b", *lines, ""]).encode()


def parquet() -> bytes:
    from keepdrop.files import arrow

    file = io.BytesIO()
    arrow.write(file, iter([{"a": readings()[:, 0], "b": readings()[:, 1]}]))
    return file.getvalue()


# Files that `predict` reads, by kind: the suffix, the content, and how the rows are chosen.
WINDOWS = {"window": 5, "columns": ("a", "b")}
FILES: dict[str, tuple[str, Callable[[], bytes], dict[str, Any]]] = {
    "npy": (".npy", npy, {}),
    "npz": (".npz", npz, {}),
    "npz deflated": (".npz", lambda: npz(np.savez_compressed), {}),
    "csv": (".csv", csv, {**WINDOWS, "time": "when", "id": "id"}),
    "csv skipped": (".csv", csv, {**WINDOWS, "time": "when", "id": "id", "skipped": Skipped(), "missing": 2}),
    "csv ordered": (".csv", csv, {**WINDOWS, "order": "when", "id": "id"}),
    "csv.gz": (".csv.gz", lambda: gzip.compress(csv(), mtime=0), {**WINDOWS, "time": "when", "id": "id"}),
    "jsonl": (
        ".jsonl",
        lambda: b"".join(json.dumps({"a": a, "b": b}).encode() + b"\n" for a, b in readings().tolist()),
        WINDOWS,
    ),
    "jsonl examples": (
        ".jsonl",
        lambda: b"".join(json.dumps({"window": x}).encode() + b"\n" for x in examples().tolist()),
        {},
    ),
    "parquet": (".parquet", parquet, WINDOWS),
}
# These bear checksums of all that counts.
PROVEN = ("npz", "npz deflated", "csv.gz")


@functools.cache
def forecaster() -> Metadata:
    return keepdrop.load(DATA / "forecaster.onnx", threads=1).metadata


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Torn, or changed in its first bytes, where headers are."""
    if rng.random() < 0.7:
        return torn(rng, data)
    content = bytearray(data)
    content[rng.randrange(min(len(content), 140))] = rng.randrange(256)
    return bytes(content)


def file_outcome(case: Case, folder: Path) -> str:
    """What became of a damaged input: "refused", or "answered" with rows that a job would sample."""
    suffix, content, choice = FILES[case.kind]
    rng = random.Random(repr(case))
    path = folder / f"x{suffix}"
    path.write_bytes(damaged(rng, content()))
    metadata = forecaster()
    try:
        with sources.opened(path, metadata, sources.Choice(**choice)) as source:
            start, stop = sorted((rng.randrange(56), source.count() or 0))
            rows = list(source.read(start, stop, 7))
            for part in filter(len, rows):
                check(metadata, part.inputs, samples=1, seed=0, rows=part.ids, first_sample=0)
    except keepdrop.KeepdropError:
        return "refused"
    if case.kind in PROVEN and rows:
        found = [x["window"] if isinstance(x, dict) else x for x in (part.inputs for part in rows)]
        expected = examples() if case.kind != "csv.gz" else np.delete(examples(), range(26, 30), axis=0)
        if not np.array_equal(np.concatenate(found), expected[start:stop]):
            return "WRONG rows"
    return "answered"


def mutated(case: Case) -> bytes:
    """The file of a case."""
    rng = random.Random(repr(case))
    data = (DATA / f"{case.artifact}.onnx").read_bytes()
    match case.kind:
        case "torn":
            return torn(rng, data)
        case "forged":
            return torn(rng, without(data, CHECKSUM_KEY))
        case "metadata":
            bare = without(data, CHECKSUM_KEY, METADATA_KEY)
            text = onnx_file.read(data).metadata
            return signed(with_entry(bare, METADATA_KEY, confused(rng, text)))
        case "graph":
            return rebuilt(rng, without(data, CHECKSUM_KEY))
    raise ValueError(case.kind)


ARTIFACT_KINDS = ("torn", "metadata", "forged", "graph")
KINDS = (*ARTIFACT_KINDS, *FILES)
# Where the metadata or the checksum could tell, an answer has to be the right one.
TELLING = ("torn", "metadata")


def outcome(case: Case, right: Callable[[str], Any]) -> str:
    """What became of a case: "refused" at load, "failed" in the run, "answered"; or what is wrong with it."""
    data = mutated(case)
    try:
        model = keepdrop.load(io.BytesIO(data), threads=1)
    except keepdrop.ArtifactError:
        return "refused"
    try:
        answer = model.sample(inputs(case.artifact), samples=SAMPLES, seed=SEED)
    except keepdrop.KeepdropError:
        return "failed"
    if case.kind in TELLING and not _equal(answer, right(case.artifact)):
        return "WRONG answer"
    return "answered"


def _equal(answer: Any, right: Any) -> bool:
    if not isinstance(right, dict):
        return isinstance(answer, np.ndarray) and answer.shape == right.shape and np.allclose(answer, right, atol=1e-5)
    return (
        isinstance(answer, dict) and answer.keys() == right.keys() and all(_equal(answer[k], right[k]) for k in right)
    )


def work() -> None:
    """A worker: cases as lines of JSON in, outcomes out."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    rights: dict[str, Any] = {}

    def right(artifact: str) -> Any:
        if artifact not in rights:
            model = keepdrop.load(DATA / f"{artifact}.onnx", threads=1)
            rights[artifact] = model.sample(inputs(artifact), samples=SAMPLES, seed=SEED)
        return rights[artifact]

    # Native code may print too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            case = Case(*json.loads(line))
            try:
                found = file_outcome(case, Path(folder)) if case.kind in FILES else outcome(case, right)
            except Exception as error:
                found = f"RAISED {type(error).__name__}: {error}"[:300].replace("\n", " ")
            print(json.dumps(found), file=answers, flush=True)


class Worker:
    """A process that works, and is replaced when it dies or says nothing for too long."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, cases: list[Case]) -> Iterator[str]:
        """The outcome of each of these cases, up to the first that ends the worker."""
        assert self._process.stdin is not None
        threading.Thread(target=self._tell, args=(cases,), daemon=True).start()
        for _ in cases:
            try:
                line = self._answers.get(timeout=PATIENCE)
            except queue.Empty:
                self._process.kill()
                yield "HANG"
                return
            if not line:
                yield f"CRASH {self._process.wait()}"
                return
            yield json.loads(line)

    def _tell(self, cases: list[Case]) -> None:
        assert self._process.stdin is not None
        try:
            for case in cases:
                self._process.stdin.write(json.dumps(case) + "\n")
            self._process.stdin.flush()
        except OSError:  # it died meanwhile, which its answers tell
            pass

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(OSError):
            self._process.stdin.close()


def outcomes(cases: list[Case]) -> Iterator[tuple[Case, str]]:
    """Each case with what became of it, in one process as long as it lives."""
    position = 0
    while position < len(cases):
        worker = Worker()
        try:
            for found in worker.ask(cases[position:]):
                yield cases[position], found
                position += 1
        finally:
            worker.close()


def plan(counts: dict[str, int], first: int = 0) -> list[Case]:
    return [
        Case(kind, ARTIFACTS[number % len(ARTIFACTS)], first + number)
        for kind, count in counts.items()
        for number in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cases", type=int, default=20_000, help="how many of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    bad = 0
    interrupted = False
    try:
        for case, found in outcomes(plan(dict.fromkeys(arguments.kinds, arguments.cases), arguments.first)):
            counts[case.kind, found.split(" ")[0]] += 1
            if found[0].isupper():
                bad += 1
                print(f"{case}: {found}", flush=True)
    except KeyboardInterrupt:
        interrupted = True
        print(f"interrupted after {sum(counts.values())} cases", flush=True)
    for (kind, found), count in sorted(counts.items()):
        print(f"{kind:15} {found:10} {count}")
    sys.exit(130 if interrupted else bool(bad))


if __name__ == "__main__":
    main()
