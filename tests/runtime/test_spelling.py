"""Messages speak of parameters; whoever reads them in a terminal reads of options."""

import click
import numpy as np
import pytest
from click.testing import CliRunner

from keepdrop import cli
from keepdrop.cli.spelling import spelled


@click.command()
@click.option("--memory")
@click.option("--first-row", type=int)
@click.option("--id", "id_column")
def command(**_: object) -> None: ...


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ("the budget is 1 kB (memory=); give more", "the budget is 1 kB (--memory); give more"),
        ("give memory=500MB to it", "give --memory 500MB to it"),
        ("first_row=7, id=sensor", "--first-row 7, --id sensor"),
        ("predict(quantiles=(0.05, 0.95))", "predict(quantiles=(0.05, 0.95))"),  # Python's, of which it has no option
        ("samples=3 is none of its options", "samples=3 is none of its options"),
        ("or export the model with streaming=False", "or export the model without --streaming"),
        ("export it with streaming=True", "export it with --streaming"),
        ("at export: heads={'mood': 'softmax'}, or", "at export: --head mood=softmax, or"),
    ],
)
def test_parameters_are_read_as_options(message: str, read: str) -> None:
    assert spelled(message, command) == read


def test_a_refusal_is_read_so(streaming, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 4, 2), np.float32))
    arguments = ["predict", str(streaming), str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.npz")]
    refused = CliRunner().invoke(cli.main, arguments)
    assert refused.exit_code == 1 and refused.stderr.rstrip().endswith("or export the model without --streaming")
