"""--plot: what is in the picture; that it is a good one was seen by eye."""

import sys

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib import colors

import keepdrop
from keepdrop import cli
from keepdrop.artifact.metadata import Head
from keepdrop.files import plot, work
from keepdrop.files.fields import ROW, Field
from keepdrop.files.sources import POSITION


def call(*arguments, code: int = 0):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws a mean [rows, ...] with a band of 0.1 to either side; gives the figure."""
    figures = []
    figure_of = plot._figure

    def remembered(*arguments):
        figures.append(figure_of(*arguments))
        return figures[-1]

    monkeypatch.setattr(plot, "_figure", remembered)

    def drawn(mean, ids=None, position=None, levels=(), kind="value", theme="light"):
        mean = np.asarray(mean, np.float32)
        fields = {Field(None, ROW): np.arange(len(mean)) if ids is None else np.asarray(ids)}
        if position is not None:
            fields[Field(None, POSITION)] = np.asarray(position)
        fields.update({Field("y", "mean"): mean, Field("y", "std"): np.full_like(mean, 0.05)})
        for i, level in enumerate(levels, 1):
            fields.update({Field("y", f"low_{level}"): mean - i, Field("y", f"high_{level}"): mean + i})
        with work.temporary(tmp_path) as finished:
            finished.append(fields)
            plot.draw(tmp_path / "out.png", finished, levels, "caption", [Head("y", kind)], theme=theme)
        return figures[-1]

    return drawn


def titles(figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_series_is_a_line_over_rows_with_bands(drawn) -> None:
    mean = np.sin(np.arange(50))[:, None]
    figure = drawn(mean, ids=np.arange(100, 150), levels=(0.5, 0.9))
    (ax,) = figure.axes
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(100, 150))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), mean[:, 0], rtol=1e-6)
    assert legend(figure) == ["90 % of the samples", "50 % of the samples", "mean"]
    widest = ax.collections[0].get_paths()[0].vertices
    assert widest[:, 1].max() == pytest.approx(mean.max() + 2, rel=1e-6)  # the band of 0.9 is drawn first
    assert (ax.get_xlabel(), titles(figure)) == ("row", ["y"])


def test_without_intervals_the_band_is_two_standard_deviations(drawn) -> None:
    figure = drawn(np.zeros((5, 1)))
    vertices = figure.axes[0].collections[0].get_paths()[0].vertices
    assert [vertices[:, 1].min(), vertices[:, 1].max()] == pytest.approx([-0.1, 0.1])
    assert legend(figure)[0] == "mean ± 2 standard deviations of the samples"


def test_windows_stand_at_their_last_line_and_series_apart(drawn) -> None:
    figure = drawn(np.arange(4.0)[:, None], ids=[7, 7, 8, 8], position=[3, 4, 8, 9])
    x, y = figure.axes[0].lines[0].get_data()
    np.testing.assert_array_equal(x, [3, 4, np.nan, 8, 9])
    np.testing.assert_array_equal(y, [0, 1, np.nan, 2, 3])


def test_long_series_are_averaged_and_say_so(drawn) -> None:
    mean = np.random.default_rng(0).standard_normal((4001, 1))
    figure = drawn(mean)
    y = figure.axes[0].lines[0].get_ydata()
    assert len(y) == 1334
    assert y[0] == pytest.approx(mean[:3].mean(), rel=1e-5)
    assert y[-1] == pytest.approx(mean[3999:].mean(), rel=1e-5)
    assert titles(figure) == ["y (a point averages 3 rows)"]


def test_elements_and_steps_have_panels(drawn) -> None:
    assert titles(drawn(np.zeros((5, 2)))) == ["y, element 0 of 2", "y, element 1 of 2"]
    assert len(drawn(np.zeros((5, 20))).axes) == plot.MOST_PANELS
    assert titles(drawn(np.zeros((2, 9, 1)), ids=[4, 6])) == ["y, row 4", "y, row 6"]
    figure = drawn(np.zeros((9, 3, 1)))
    assert titles(figure)[0] == "y, row 0 (the first 6 of 9)"
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [0, 1, 2])


def test_log_variances_are_left_out(drawn) -> None:
    figure = drawn([[1.0, -3.0], [2.0, -4.0]], kind="mean,logvar")
    assert titles(figure) == ["y"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [1, 2])


def test_a_single_row_is_a_point(drawn) -> None:
    figure = drawn([[1.0]], levels=(0.9,))
    assert list(figure.axes[0].get_xticks()) == [0]
    assert sorted(legend(figure)) == ["90 % of the samples", "mean"]


def test_few_rows_of_classes_have_bars_each(drawn) -> None:
    figure = drawn([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], kind="softmax")
    assert titles(figure) == ["y, row 0: class 1, 70 %", "y, row 1: class 0, 50 %"]
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["1", "2", "0"]
    np.testing.assert_allclose([bar.get_width() for bar in first.patches], [0.7, 0.2, 0.1], rtol=1e-6)


def test_many_rows_of_classes_are_counted(drawn) -> None:
    mean = [[0.95, 0.05]] * 4 + [[0.3, 0.7]] * 5 + [[0.55, 0.45]] * 2
    figure = drawn(mean, kind="softmax")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [4, 0, 0, 5, 2, 0]  # of two classes: sure, unsure, torn
    assert titles(figure) == ["y: how many of 11 rows have a class as their likeliest"]


@pytest.mark.parametrize(
    ("mean", "kind"),
    [
        (np.sin(np.arange(50))[:, None], "value"),
        (np.zeros((1, 1)), "value"),
        ([[0.1, 0.7, 0.2]], "softmax"),
        ([[0.95, 0.05]] * 11, "softmax"),
    ],
)
def test_every_kind_of_panel_has_colours_for_dark_pages(drawn, mean, kind) -> None:
    """What matters most stands out from the page: the mean, and bars of the surest."""

    def contrast(theme: str) -> float:
        figure = drawn(mean, kind=kind, theme=theme)
        (ax,) = figure.axes
        ink = ax.lines[-1].get_color() if kind == "value" else ax.patches[0].get_facecolor()
        lightness = [colors.rgb_to_hsv(colors.to_rgb(color))[2] for color in (ink, ax.get_facecolor())]
        return abs(lightness[0] - lightness[1])

    assert contrast("dark") > 0.8 and contrast("light") > 0.3


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_command_draws_beside_the_output(one, x, tmp_path, suffix) -> None:
    np.save(tmp_path / "x.npy", x)
    picture = tmp_path / f"out{suffix}"
    result = call("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.csv", "--plot", picture, "--batch", 2)
    assert f"drew {picture}" in result.stdout
    assert picture.read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["one.onnx", "out.csv", picture.name, "x.npy"])


def test_refusals_come_before_the_work(one, x, tmp_path, monkeypatch) -> None:
    np.save(tmp_path / "x.npy", x)
    arguments = ("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.csv", "--plot")
    assert "its suffix is none of .png" in call(*arguments, tmp_path / "out.gif", code=1).stderr
    assert "make it first" in call(*arguments, tmp_path / "none" / "out.png", code=1).stderr
    monkeypatch.delitem(sys.modules, "keepdrop.files.plot")
    monkeypatch.delattr(keepdrop.files, "plot")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "keepdrop[plot]" in call(*arguments, tmp_path / "out.png", code=1).stderr
    assert not (tmp_path / "out.csv").exists()
