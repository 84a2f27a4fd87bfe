"""What a call takes is counted before it starts, and is about what it then takes."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli
from keepdrop.artifact.metadata import Cost, Tensor
from keepdrop.run import device, engine, memory
from keepdrop.run.memory import parsed, readable

ROW = np.zeros((1, 3), np.float32)


@pytest.mark.parametrize(
    ("given", "size"),
    [(1, 1), (np.int64(5), 5), ("500MB", 500_000_000), ("2 GiB", 2 << 30), ("0.5k", 500), ("64", 64), ("1tb", 10**12)],
)
def test_sizes(given, size: int) -> None:
    assert parsed(given) == size


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "", "MB", "-1", "1e3", "5XB", "0.1", "9" * 40, b"5", [5]])
def test_what_is_no_size_is_refused(one, given) -> None:
    with pytest.raises(keepdrop.InputError, match='give a number of bytes, or a text such as "500MB"'):
        keepdrop.load(one, memory=given)


def test_sizes_are_told_in_one_unit() -> None:
    assert [readable(n) for n in (999, 1000, 2_500_000, 4 * 10**9, 8 * 10**12)] == [
        "999 bytes",
        "1.0 kB",
        "2.5 MB",
        "4.0 GB",
        "8.0 TB",
    ]


def test_results_beyond_the_budget_are_refused_with_the_arithmetic(one) -> None:
    model = keepdrop.load(one, memory="1MB")
    with pytest.raises(keepdrop.TooLarge) as caught:
        model.sample(ROW, samples=100_000)
    for part in ("1 rows x 100,000 samples x 3 elements x 4 bytes = 1.2 MB", "the budget is 1.0 MB", "quantiles="):
        assert part in str(caught.value)
    assert isinstance(caught.value, (MemoryError, ValueError))
    assert model.predict(ROW, samples=100_000, quantiles=()).mean.shape == (1, 3)
    with pytest.raises(keepdrop.TooLarge):
        model.predict(ROW, samples=100_000)
    with pytest.raises(keepdrop.TooLarge, match="quantiles=\\(\\) for mean and std alone"):
        model.predict(ROW, samples=100_000, quantiles=(0.5,))


def test_samples_that_a_question_keeps_are_refused_as_they_outgrow_the_budget(one, x) -> None:
    model = keepdrop.load(one, memory="40kB")
    never = keepdrop.standard_error(1e-9)
    with pytest.raises(keepdrop.TooLarge, match=r"7 rows x .* the budget is 40\.0 kB"):
        model.predict(x, until=never, max_samples=5000)
    with pytest.raises(keepdrop.TooLarge, match=r"the budget is 40\.0 kB"):
        model.predict(x, until=never, max_samples=5000, quantiles=(0.5,))
    many = np.zeros((10_000, 3), np.float32)
    with pytest.raises(keepdrop.TooLarge, match="4 summaries x 10,000 rows x 3 elements x 8 bytes"):
        model.predict(many, until=never, quantiles=(0.05, 0.95))
    dropped = model.predict(x, until=never, max_samples=5000, quantiles=())
    assert dropped.n.tolist() == [5000] * 7
    np.testing.assert_allclose(dropped.mean, keepdrop.load(one).predict(x, samples=5000).mean, rtol=1e-6)


def test_copies_of_inputs_count(one) -> None:
    model = keepdrop.load(one, memory="100kB")
    x = np.zeros((10_000, 3))
    with pytest.raises(keepdrop.TooLarge, match=r"copies of the inputs, x \[10000, 3\] as float32, = 120.0 kB"):
        model.predict(x, quantiles=())
    with pytest.raises(keepdrop.TooLarge, match="2 summaries x 10,000 rows x 3 elements x 8 bytes"):
        model.predict(x.astype(np.float32), quantiles=())


def test_a_run_too_large_for_the_budget_is_refused(one) -> None:
    with pytest.raises(keepdrop.TooLarge, match="one sample of one row takes while it runs"):
        keepdrop.load(one, memory=100).sample(ROW, samples=1)


def test_by_default_the_budget_is_half_of_what_is_free(one, monkeypatch) -> None:
    model = keepdrop.load(one)
    monkeypatch.setattr(memory, "available_memory", lambda: 100 << 20)
    model.sample(ROW, samples=(50 << 20) // 12)
    with pytest.raises(keepdrop.TooLarge, match="the budget is 52.4 MB .half of the memory that is free here."):
        model.sample(ROW, samples=(50 << 20) // 12 + 1)


def test_a_small_call_does_not_ask_the_device(one, monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: pytest.fail("asked"))
    keepdrop.load(one).sample(ROW, samples=1000)


def test_what_is_free_here_is_sane() -> None:
    assert 1 << 20 < device.available_memory() < 1 << 50


def test_the_least_of_machine_and_control_groups_counts(tmp_path, monkeypatch) -> None:
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("50\n")
    (group.parent / "memory.max").write_text("1000\n")
    (group.parent / "memory.current").write_text("700\n")
    (group.parent / "memory.stat").write_text("anon 1\ninactive_file 100\n")
    assert list(device._group_memory(tmp_path, tmp_path / "cgroup")) == [400]
    older = tmp_path / "memory" / "docker"
    older.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("4:memory:/docker\n3:cpu:/elsewhere\n")
    (older / "memory.limit_in_bytes").write_text("900\n")
    (older / "memory.usage_in_bytes").write_text("100\n")
    assert list(device._group_memory(tmp_path, tmp_path / "cgroup")) == [800]
    monkeypatch.setattr(device, "_group_memory", lambda: iter([400]))
    assert device.available_memory() == 400
    monkeypatch.setattr(device, "_group_memory", lambda: iter([]))
    monkeypatch.setattr(device, "_machine_memory", lambda: iter([]))
    assert device.available_memory() == device.UNKNOWN


def test_a_budget_changes_the_cut_and_not_the_numbers(one, closed, x, monkeypatch) -> None:
    cuts = []
    plan_chunks = engine.plan_chunks
    monkeypatch.setattr(engine, "plan_chunks", lambda *args: cuts.append(args) or plan_chunks(*args))
    draws = keepdrop.load(one, memory="20kB", threads=2).sample(x, samples=100, seed=7)
    np.testing.assert_array_equal(draws, closed(x, 100, seed=7))
    ((_, _, workers, limit),) = cuts
    assert workers * limit * 840 < 20_000 - draws.nbytes  # 840 bytes are this model's for a sample of a row


def test_measured_activations_count(write, one_text, metadata, closed, x, monkeypatch) -> None:
    measured = dataclasses.replace(metadata, cost=Cost(run=1e-4, sample=1e-6, bytes=4_000))
    path = write(one_text, measured.to_json())
    cuts = []
    plan_chunks = engine.plan_chunks
    monkeypatch.setattr(engine, "plan_chunks", lambda *args: cuts.append(args) or plan_chunks(*args))
    draws = keepdrop.load(path, memory="50kB", threads=1).sample(x, samples=100, seed=7)
    np.testing.assert_array_equal(draws, closed(x, 100, seed=7))
    ((_, _, _, limit),) = cuts
    assert limit == (50_000 - draws.nbytes) // 4_000
    with pytest.raises(keepdrop.TooLarge, match=r"while it runs = 4\.0 kB"):
        keepdrop.load(path, memory="3kB").sample(x[:1], samples=1)


def test_measured_activations_grow_with_a_dynamic_axis_or_its_square(metadata) -> None:
    dynamic = dataclasses.replace(
        metadata,
        inputs=(Tensor("x", "float32", (None, None)),),
        cost=Cost(run=1e-4, sample=1e-6, bytes=10**6, length=100),
    )
    assert [engine.sample_bytes(dynamic, n) for n in (50, 100, 300)] == [500_000, 10**6, 9 * 10**6]
    fixed = dataclasses.replace(metadata, cost=dynamic.cost)
    assert engine.sample_bytes(fixed, 300) == 10**6
    unknown = dataclasses.replace(metadata, cost=Cost(run=1e-4, sample=1e-6))
    assert engine.sample_bytes(unknown, 3) == engine.sample_bytes(metadata, 3) == 840


def test_a_call_without_a_budget_is_always_cut_alike(one, x, monkeypatch) -> None:
    """What is free decides what is refused, not the cut, on which the last bits of a result can depend."""
    cuts = []
    plan_chunks = engine.plan_chunks
    monkeypatch.setattr(engine, "plan_chunks", lambda *args: cuts.append(args) or plan_chunks(*args))
    monkeypatch.setattr(engine, "MAX_RUN", 64)
    for free in (1 << 40, 1 << 20):
        monkeypatch.setattr(memory, "available_memory", lambda free=free: free)
        keepdrop.load(one, threads=2).sample(x, samples=100)
    assert cuts[0] == cuts[1]


def test_memory_that_is_not_there_is_an_error_of_ours(one, x, monkeypatch) -> None:
    def none(*args):
        raise MemoryError

    monkeypatch.setattr(engine, "MAX_RUN", 4)
    model = keepdrop.load(one)
    monkeypatch.setattr(engine.np, "empty", none)
    with pytest.raises(keepdrop.TooLarge, match="there is no memory for float32"):
        model.sample(x, samples=50)


def test_the_command_takes_a_budget(one, x, tmp_path) -> None:
    np.save(tmp_path / "x.npy", x)
    command = ["predict", str(one), str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.npz"), "--memory"]
    for size, text in (
        ("100", "the budget is 100 bytes (--memory)"),
        ("200", "--memory gives more"),
        ("much", "memory is 'much'"),
    ):
        refused = CliRunner().invoke(cli.main, [*command, size])
        assert refused.exit_code == 1 and text in refused.stderr
        assert not (tmp_path / "out.npz").exists()
    assert CliRunner().invoke(cli.main, [*command, "1MB"]).exit_code == 0


PEAK = """
import re, sys
import numpy as np
import keepdrop

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) << 10

path, budget, call = sys.argv[1], sys.argv[2], sys.argv[3]
model = keepdrop.load(path, threads=2, memory=budget)
x = np.zeros((3000, 3), np.float32)
for _ in range(3):
    model.predict(x[:8], samples=100, quantiles=(0.05, 0.95))  # what is loaded and made once
before = peak()
try:
    eval(call)
except keepdrop.TooLarge:
    print("refused")
else:
    print("done")
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("budget", "call", "ending", "least", "most"),
    [
        # Kept samples are 3000 x 1000 x 3 x 4 bytes = 36 MB. The least shows that the measurement sees them.
        ("32MB", "model.predict(x, samples=1000, quantiles=(0.05, 0.95))", "done", 0, 32e6),
        ("32MB", "model.predict(x, samples=1000, quantiles=())", "done", 0, 32e6),
        ("32MB", "model.sample(x, samples=1000)", "refused", 0, 1e6),
        ("48MB", "model.sample(x, samples=1000)", "done", 34e6, 48e6),
        ("150MB", "model.predict(x, samples=1000)", "done", 34e6, 150e6),
        ("1GB", "model.sample(x, samples=10**9)", "refused", 0, 1e6),
    ],
)
def test_the_peak_stays_within_the_budget(one, budget: str, call: str, ending: str, least: float, most: float) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, one, budget, call], capture_output=True, text=True, check=True)
    found, grown = done.stdout.split()
    assert found == ending
    assert least <= int(grown) <= most
