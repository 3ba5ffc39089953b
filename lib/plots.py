"""How does the book draw? Tensors and an axis in, the axis out.

One style for every figure: opaque and light (the site shows it unchanged in dark mode), wide enough for a phone, a
colour-blind-safe palette, and always a second cue besides colour (a marker, a dash, a hatch or a printed number).

Names, in reading order: `figure`, `curves`, `dots`, `fit`, `cells`, `shares`, `block`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "///", "..")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (7, 2)))
MARGINS = (0.15, 0.1, 0.94, 0.97)  # of a small figure with labelled axes: left, bottom, right, top
NAMED = (0.25, 0.08, 0.94, 0.98)  # of one whose rows have names on the left
INK, FAINT, PALE = "#000000", "#6a6a6a", "#e7eef4"  # explore turns pure black into the page's own text colour

STYLE = {
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#808080",
    "grid.alpha": 0.28,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


def figure(
    width: float = 4.6,
    height: float = 2.9,
    rows: int = 1,
    columns: int = 1,
    *,
    height_ratios: Sequence[float] | None = None,
    margins: tuple[float, float, float, float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Make an empty figure in the book's style and return it with its axes as a flat list.

    With `margins` (left, bottom, right, top, as shares of the figure) the axes stay where they are put, which draws
    five times faster than fitting them and keeps the frames of an explorable in register.

    The width is in inches and is kept near 4.6, because the site scales a figure down to a phone's 360 pixels: wider
    figures would shrink their labels below reading size.

    Raises: ValueError if a size or a count is not positive.
    """
    if min(width, height, rows, columns) <= 0:
        raise ValueError(
            f"a figure needs positive sizes and counts, but got width={width}, height={height}, rows={rows}, "
            f"columns={columns}; pass inches for the sizes and 1 or more for the counts"
        )
    plt.rcParams.update(STYLE)
    fitted = "constrained" if margins is None else None
    ratios = dict(height_ratios=height_ratios)
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), layout=fitted, squeeze=False, gridspec_kw=ratios)
    if margins is not None:
        left, bottom, right, top = margins
        fig.subplots_adjust(left=left, bottom=bottom, right=right, top=top, hspace=0.9)
    return fig, list(axes.flat)


def curves(
    ax: Axes, x: Sequence[float], series: Mapping[str, Tensor], *, x_label: str, y_label: str, log_x: bool = False
) -> Axes:
    """Draw one line per series through the mean of its runs, and every single run as a small mark.

    The runs are shown because a mean alone hides whether a difference is larger than its spread over seeds.

    Shape: each series is (run, len(x)) or (len(x),); runs are averaged for the line only.
    Raises: ValueError if a series does not have one value for each x.
    """
    for order, (name, runs) in enumerate(series.items()):
        runs = runs.detach().cpu().reshape(-1, runs.shape[-1])
        if runs.shape[-1] != len(x):
            raise ValueError(
                f"every series needs one value for each x: {name!r} has {runs.shape[-1]} values for {len(x)} x; "
                f"pass a tensor of shape (runs, {len(x)})"
            )
        style = dict(color=COLOURS[order % 7], marker=MARKERS[order % 7])
        ax.plot(x, runs.mean(0).tolist(), linestyle=DASHES[order % 7], label=name, **style)
        if len(runs) > 1:
            for run in runs:
                ax.plot(x, run.tolist(), linestyle="none", markersize=3, alpha=0.6, **style)
    if log_x:
        ax.set_xscale("log", base=2)
        ax.set_xticks(list(x), [f"{value:g}" for value in x])
        ax.minorticks_off()
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    if len(series) > 1:
        ax.legend()
    return ax


def dots(ax: Axes, groups: Mapping[str, Sequence[float]], *, x_label: str) -> Axes:
    """Draw every run of every group as a dot on the group's own row, with a bar at the group's mean.

    Raises: ValueError if a group has no value.
    """
    for row, (name, values) in enumerate(groups.items()):
        if len(values) == 0:
            raise ValueError(f"every group needs at least one value, but {name!r} has 0; leave the group out")
        ax.plot(values, [row] * len(values), linestyle="none", marker=MARKERS[row % 7], color=COLOURS[row % 7])
        mean = sum(values) / len(values)
        ax.plot([mean, mean], [row - 0.28, row + 0.28], color=INK, linewidth=1.6)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(x_label)
    return ax


def fit(
    ax: Axes, x: Tensor, target: Tensor, fitted: Tensor, *, switches: Sequence[float], limits: Sequence[float]
) -> Axes:
    """Draw a fitted curve over its dashed target, with a tick at the bottom for every place where a unit switches.

    The limits of the vertical axis are given, not found, so that the curve moves between frames and the axis does not.

    Shape: x, target and fitted are (points) or (points, 1).
    Raises: ValueError if the three do not have the same number of points.
    """
    x, target, fitted = (series.detach().cpu().flatten().tolist() for series in (x, target, fitted))
    if not len(x) == len(target) == len(fitted):
        raise ValueError(
            f"x, target and fitted need the same number of points, but have {len(x)}, {len(target)} and {len(fitted)}; "
            "evaluate both curves on the same x"
        )
    ax.plot(x, target, linestyle="--", linewidth=1.6, color=INK, label="target")
    ax.plot(x, fitted, linewidth=2.6, color=COLOURS[1], label="network")
    low, high = limits
    ax.vlines(list(switches), low, low + 0.06 * (high - low), color=COLOURS[0], linewidth=1.6)
    ax.set_xlim(min(x), max(x))
    ax.set_ylim(low, high)
    ax.set_xlabel("input")
    ax.set_ylabel("output")
    ax.legend(loc="upper center", ncols=2)
    return ax


def cells(ax: Axes, table: Tensor, *, title: str, x_label: str, y_label: str) -> Axes:
    """Draw a matrix of yes and no as filled and empty squares, with a mark in the filled ones.

    Shape: (row, column) of booleans; rows run down, columns run across, both counted from 0.
    Raises: ValueError if the table is not a matrix of booleans.
    """
    if table.ndim != 2 or table.dtype.is_floating_point or table.dtype.is_complex:
        raise ValueError(
            f"cells draws a matrix of booleans, but got {table.ndim} axes of {table.dtype}; "
            "compare first, for example (jacobian != 0)"
        )
    table = table.cpu().bool()
    ax.imshow(table.tolist(), cmap=ListedColormap(["white", COLOURS[0]]), vmin=0, vmax=1)
    for row, column in table.nonzero().tolist():
        ax.text(column, row, "•", ha="center", va="center", color="white", fontsize=9)
    ax.set_xticks(range(table.shape[1]))
    ax.set_yticks(range(table.shape[0]))
    ax.set_xticks([edge - 0.5 for edge in range(1, table.shape[1])], minor=True)
    ax.set_yticks([edge - 0.5 for edge in range(1, table.shape[0])], minor=True)
    ax.grid(visible=False)
    ax.grid(which="minor", color="#bdbdbd", linewidth=0.6)
    ax.tick_params(which="both", length=0)
    ax.spines[["top", "right"]].set_visible(True)
    ax.set_title(title, fontsize=10.5)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    return ax


def shares(ax: Axes, rows: Mapping[str, Mapping[str, float]]) -> Axes:
    """Draw one horizontal bar per row, cut into named parts whose lengths are their shares of the row's sum.

    Raises: ValueError if the parts of a row are negative or sum to zero.
    """
    names = list(next(iter(rows.values())))
    for row, (label, parts) in enumerate(rows.items()):
        total = sum(parts.values())
        if total <= 0 or min(parts.values()) < 0:
            raise ValueError(f"shares need parts of 0 or more with a positive sum, but {label!r} has {dict(parts)}")
        ends = list(itertools.accumulate((parts[name] / total for name in names), initial=0.0))
        for order, (left, right) in enumerate(itertools.pairwise(ends)):
            style = dict(height=0.62, color=COLOURS[order], hatch=HATCHES[order % 3], edgecolor="white")
            ax.barh(row, right - left, left=left, label=names[order] if row == 0 else None, **style)
            if right - left > 0.18:  # a narrower part has no room for its number
                plate = dict(boxstyle="round,pad=0.15", facecolor=COLOURS[order], edgecolor="none")
                place = dict(ha="center", va="center", bbox=plate)
                share = f"{right - left:.1%}"
                ax.text((left + right) / 2, row, share, color="white", fontsize=10, fontweight="bold", **place)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names))
    return ax


# The encoder block of Vaswani et al. 2017, figure 1, left half: (key, label, height of the box's middle).
PARTS = (
    ("attention", "multi-head attention", 1.0),
    ("residual", "add", 2.0),
    ("norms", "norm", 2.8),
    ("feed_forward", "feed-forward network", 3.9),
    ("residual", "add", 4.9),
    ("norms", "norm", 5.7),
)


def block(ax: Axes, highlight: str) -> Axes:
    """Draw one Transformer block from bottom to top, with the parts called `highlight` filled in.

    Boxes are the sub-layers in the order of Vaswani et al. 2017, figure 1; the two dashed arrows are the residual
    connections.

    Raises: ValueError if no part has that name.
    """
    keys = sorted({key for key, _, _ in PARTS})
    if highlight not in keys:
        raise ValueError(f"the block has the parts {', '.join(keys)}, but highlight={highlight!r}; choose one of them")
    arrow = dict(arrowstyle="-|>", color=FAINT, linewidth=1.4, shrinkA=0, shrinkB=0)
    heights = [0.1, *(height for _, _, height in PARTS), 6.6]
    for low, high in itertools.pairwise(heights):
        ax.annotate("", (0, high - (0.3 if high < 6.6 else 0)), (0, low + (0.3 if low > 0.1 else 0)), arrowprops=arrow)
    for key, label, height in PARTS:
        chosen, wide = key == highlight, key in ("attention", "feed_forward")
        half = 1.75 if wide else 0.95
        style = dict(boxstyle="round,pad=0.02,rounding_size=0.12", linewidth=2.2 if chosen else 1.2)
        style |= dict(facecolor=COLOURS[0] if chosen else PALE, edgecolor=COLOURS[0] if chosen else FAINT)
        ax.add_patch(FancyBboxPatch((-half, height - 0.28), 2 * half, 0.56, **style))
        weight, colour = ("bold", "white") if chosen else ("normal", INK)
        ax.text(0, height, label, ha="center", va="center", color=colour, fontweight=weight)
    for low, high in ((0.42, 2.0), (3.3, 4.9)):
        ax.plot([0, 2.25, 2.25, 1.5], [low, low, high, high], color=FAINT, linewidth=1.4, linestyle="--")
        ax.annotate("", (0.97, high), (1.55, high), arrowprops=arrow)
    ax.text(0, -0.08, "tokens in, $n \\times d_{model}$", ha="center", va="top")
    ax.text(0, 6.68, "tokens out, $n \\times d_{model}$", ha="center", va="bottom")
    ax.set_xlim(-2.6, 2.9)
    ax.set_ylim(-0.6, 7.2)
    ax.axis("off")
    return ax
