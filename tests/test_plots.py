"""The figures show the numbers they are given, in words a reader can name, and refuse what they cannot draw."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from lib import plots

matplotlib.use("agg")


@pytest.fixture
def ax():
    fig, (axis,) = plots.figure()
    yield axis
    plt.close(fig)


def contrast(colour: str) -> float:
    """Contrast of a colour with white, as WCAG 2.2 defines it."""

    def linear(part):
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(part) for part in matplotlib.colors.to_rgb(colour))
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


def test_text_has_the_contrast_that_small_print_needs():
    assert contrast(plots.INK) > 7
    assert contrast(plots.FAINT) > 4.5


def test_colours_markers_and_dashes_are_as_many_and_all_different():
    assert len(set(plots.COLOURS)) == len(set(plots.MARKERS)) == len(set(plots.DASHES)) == 7


def test_a_figure_is_opaque_so_that_it_reads_on_a_dark_page():
    fig, _ = plots.figure()
    assert fig.get_facecolor() == (1, 1, 1, 1)
    plt.close(fig)


def test_margins_put_the_axes_where_they_are_told():
    fig, (axis,) = plots.figure(margins=(0.1, 0.2, 0.9, 0.8))
    assert axis.get_position().extents.tolist() == pytest.approx([0.1, 0.2, 0.9, 0.8])
    plt.close(fig)


@pytest.mark.parametrize("wrong", [dict(width=0.0), dict(height=-1.0), dict(rows=0), dict(columns=0)])
def test_a_figure_without_size_is_refused(wrong):
    with pytest.raises(ValueError, match="positive sizes and counts"):
        plots.figure(**wrong)


def test_curves_run_through_the_mean_and_show_every_run(ax):
    runs = torch.tensor([[0.0, 1.0], [1.0, 3.0]])
    plots.curves(ax, [1, 2], {"a": runs}, x_label="width (units)", y_label="share")
    mean, first, second = (line.get_ydata() for line in ax.lines)
    assert list(mean) == [0.5, 2.0]
    assert list(first) == [0.0, 1.0]
    assert list(second) == [1.0, 3.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width (units)", "share")


def test_curves_differ_in_more_than_colour(ax):
    plots.curves(ax, [1, 2], {"a": torch.rand(2), "b": torch.rand(2)}, x_label="x", y_label="y")
    first, second = ax.lines
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_a_logarithmic_axis_is_labelled_with_the_values_that_were_run(ax):
    plots.curves(ax, [1, 4, 16], {"a": torch.rand(3)}, x_label="x", y_label="y", log_x=True)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "4", "16"]


def test_a_curve_needs_a_value_for_each_x(ax):
    with pytest.raises(ValueError, match="'a' has 3 values for 2 x"):
        plots.curves(ax, [1, 2], {"a": torch.rand(3)}, x_label="x", y_label="y")


def test_dots_show_every_run_and_the_mean(ax):
    plots.dots(ax, {"one": [1.0, 3.0], "two": [2.0]}, x_label="share")
    assert list(ax.lines[0].get_xdata()) == [1.0, 3.0]
    assert list(ax.lines[1].get_xdata()) == [2.0, 2.0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]


def test_an_empty_group_is_refused(ax):
    with pytest.raises(ValueError, match="'one' has 0"):
        plots.dots(ax, {"one": []}, x_label="share")


def test_a_fit_keeps_the_limits_it_was_given(ax):
    x = torch.linspace(-1, 1, 5)
    plots.fit(ax, x, x, 10 * x, switches=[0.5], limits=(-2, 2))
    assert ax.get_ylim() == (-2, 2)
    assert len(ax.collections) == 1


def test_a_fit_needs_both_curves_on_the_same_points(ax):
    with pytest.raises(ValueError, match="5, 4 and 5"):
        plots.fit(ax, torch.zeros(5), torch.zeros(4), torch.zeros(5), switches=[], limits=(0, 1))


def test_filled_cells_are_marked_as_well_as_coloured(ax):
    plots.cells(ax, torch.eye(3).bool(), title="identity", x_label="in", y_label="out")
    assert sorted(text.get_position() for text in ax.texts) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("table", [torch.zeros(3, dtype=torch.bool), torch.zeros(2, 2)])
def test_cells_refuse_what_is_not_a_matrix_of_yes_and_no(ax, table):
    with pytest.raises(ValueError, match="matrix of booleans"):
        plots.cells(ax, table, title="t", x_label="x", y_label="y")


def test_shares_add_up_to_the_whole_bar(ax):
    plots.shares(ax, {"block": {"a": 1.0, "b": 3.0}})
    assert [bar.get_width() for bar in ax.patches] == [0.25, 0.75]
    assert [text.get_text() for text in ax.texts] == ["25.0%", "75.0%"]
    assert ax.patches[0].get_hatch() != ax.patches[1].get_hatch()


@pytest.mark.parametrize("parts", [{"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_shares_of_nothing_are_refused(ax, parts):
    with pytest.raises(ValueError, match="positive sum"):
        plots.shares(ax, {"block": parts})


def test_the_block_fills_the_part_in_question(ax):
    plots.block(ax, "norms")
    bold = [text.get_text() for text in ax.texts if text.get_fontweight() == "bold"]
    assert bold == ["norm", "norm"]


def test_a_part_that_the_block_does_not_have_is_refused(ax):
    with pytest.raises(ValueError, match="highlight='pooling'"):
        plots.block(ax, "pooling")
