"""How is a verdict shown? As text that is the same every time, and as HTML with expected beside received.

Text begins with an emoji. HTML draws the same sign, since a machine without a font for emoji shows an empty box. In
both, numbers that differ carry the sign ≠; colour only repeats what the numbers say. Colours are laid thinly over
whatever background there is, so that light and dark pages both read.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

from .outcome import COLUMNS, ROWS, SIGNS, Comparison, Status, Verdict, differs

STYLE = """
.verdict { border-left: .3rem solid #767676; padding: .1rem 0 .1rem .8rem; line-height: 1.45; }
.verdict-passed { border-color: #009e73; }
.verdict-failed { border-color: #d55e00; }
.verdict p { margin: .3rem 0; }
"""
TABLE_STYLE = """
.verdict-pair { display: flex; flex-wrap: wrap; gap: .3rem 2rem; }
.verdict table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0; width: auto; }
.verdict caption { caption-side: top; color: inherit; font-weight: 600; padding: .1rem 0; text-align: left; }
.verdict table :is(th, td) {
  background: transparent; border: 1px solid rgba(128, 128, 128, .5); color: inherit; padding: .15rem .5rem;
  text-align: right;
}
.verdict table th { font-weight: 400; }
.verdict table td.verdict-off { font-weight: 700; outline: 2px solid currentColor; outline-offset: -2px; }
"""
# Each is white on a ground of its own, or has the colour of the text, so that it reads on light and dark pages, and has
# a form of its own besides. None needs the style sheet, which some front ends strip.
WHITE_LINE = 'fill="none" stroke="#ffffff" stroke-linecap="round" stroke-linejoin="round" stroke-width="2.5"'
DRAWINGS = {
    "passed": f'<rect width="16" height="16" rx="3" fill="#009e73"/><path {WHITE_LINE} d="M4 8.5 7 11.5 12 5"/>',
    "failed": f'<circle cx="8" cy="8" r="8" fill="#d55e00"/><path {WHITE_LINE} d="M5 5 11 11M11 5 5 11"/>',
    "not attempted": '<rect x="1" y="1" width="14" height="14" rx="3" fill="none" stroke="currentColor" '
    'stroke-width="2"/>',
}


@dataclass(frozen=True)
class Grid:
    """A part of two tensors of one shape, as texts: the first numbers that differ are in it."""

    expected: list[list[str]]
    received: list[list[str]]
    off: list[list[bool]]
    shades: tuple[list[list[float]], list[list[float]]]  # -1 to 1, expected and received
    first_row: int
    where: str  # which part it is


def as_text(verdict: Verdict) -> str:
    """Write a verdict for terminals, tests and screen readers."""
    lines = [f"{SIGNS[verdict.status]} {verdict.exercise}: {verdict.message}"]
    if verdict.hint:
        lines.append(f"   Way out: {verdict.hint}")
    if verdict.line:
        lines.append(f"   Line {verdict.line.number}: {verdict.line.text}")
    if verdict.comparison:
        lines += [f"   Tried: {verdict.comparison.tried}", *_compared(verdict.comparison)]
    if verdict.printed.strip():
        lines += ["   Printed:", *(f"   | {line}" for line in verdict.printed.rstrip().splitlines())]
    return "\n".join(lines)


def as_html(verdict: Verdict) -> str:
    """Draw a verdict for notebooks and pages; everything that the reader wrote is escaped."""
    style, parts = STYLE, [f"<p>{_sign(verdict.status)} <strong>{escape(verdict.exercise)}</strong>: "]
    parts.append(f"{escape(verdict.message)}</p>")
    if verdict.hint:
        parts.append(f"<p><strong>Way out:</strong> {escape(verdict.hint)}</p>")
    if verdict.line:
        parts.append(f"<p>Line {verdict.line.number}: <code>{escape(verdict.line.text)}</code></p>")
    if verdict.comparison:
        style += TABLE_STYLE
        parts += [f"<p>Tried: <code>{escape(verdict.comparison.tried)}</code></p>", _drawn(verdict.comparison)]
    if verdict.printed.strip():
        parts.append(f"<p>Printed:</p><pre>{escape(verdict.printed.rstrip())}</pre>")
    kind = verdict.status.replace(" ", "-")
    return f'<style>{style}</style><div class="verdict verdict-{kind}">{"".join(parts)}</div>'


def _sign(status: Status) -> str:
    """Draw the sign of a status; its title is read aloud, and stands there as a word where drawings are stripped."""
    size = 'width="1em" height="1em" viewBox="0 0 16 16" style="vertical-align: -.125em"'
    return f'<svg role="img" {size}><title>{status}</title>{DRAWINGS[status]}</svg>'


def _compared(comparison: Comparison) -> list[str]:
    grid = _grid(comparison)
    if grid is None:
        expected, received = _both_written(comparison)
        return [f"   Expected: {expected}", f"   Received: {received}"]
    lines = [f"   Expected and received{grid.where}, ≠ marks what differs:"]
    for number, (expected, received, off) in enumerate(
        zip(grid.expected, grid.received, grid.off, strict=True), start=grid.first_row
    ):
        marked = (f"{'≠' if other else ' '}{text}" for text, other in zip(received, off, strict=True))
        lines.append(f"   {comparison.rows} {number}: {'  '.join(expected)}  |  {' '.join(marked)}")
    return lines


def _drawn(comparison: Comparison) -> str:
    grid = _grid(comparison)
    if grid is None:
        expected, received = map(escape, _both_written(comparison))
        return f"<p>Expected: <code>{expected}</code><br>Received: <code>{received}</code></p>"
    nothing = [[False] * len(row) for row in grid.off]
    tables = (
        _table(f"Expected{grid.where}", comparison.rows, grid.first_row, grid.expected, nothing, grid.shades[0]),
        _table(
            f"Received, ≠ differs{grid.where}", comparison.rows, grid.first_row, grid.received, grid.off, grid.shades[1]
        ),
    )
    return f'<div class="verdict-pair">{"".join(tables)}</div>'


def _table(
    caption: str, rows: str, first_row: int, texts: list[list[str]], off: list[list[bool]], shades: list[list[float]]
) -> str:
    body = []
    for number, (row, marks, colours) in enumerate(zip(texts, off, shades, strict=True), start=first_row):
        cells = "".join(map(_cell, row, marks, colours))
        body.append(f'<tr><th scope="row">{escape(rows)} {number}</th>{cells}</tr>')
    return f"<table><caption>{escape(caption)}</caption><tbody>{''.join(body)}</tbody></table>"


def _cell(text: str, off: bool, shade: float) -> str:
    hue = "0, 114, 178" if shade < 0 else "230, 159, 0"
    mark = ' class="verdict-off"' if off else ""
    return f'<td{mark} style="background: rgba({hue}, {abs(shade) * 0.4:.2f})">{"≠ " * off}{text.strip()}</td>'


def _grid(comparison: Comparison) -> Grid | None:
    """Cut the part to show out of two tensors: the first matrix, and in it the first rows, with a difference."""
    expected, received = comparison.expected, comparison.received
    if not (isinstance(expected, Tensor) and isinstance(received, Tensor)):
        return None
    if expected.shape != received.shape or expected.numel() == 0:
        return None
    expected, received = (tensor.detach().double().cpu() for tensor in (expected, received))
    off = differs(expected, received)
    shape = (1, 1, *expected.shape)[-max(2, expected.dim()) :]
    matrices = [tensor.reshape(-1, *shape[-2:]) for tensor in (expected, received, off)]
    index = int(matrices[2].flatten(1).any(dim=1).int().argmax())
    off_rows = matrices[2][index].any(dim=1).int()
    first_row = min(int(off_rows.argmax()), max(0, shape[-2] - ROWS))
    expected, received, off = (m[index, first_row : first_row + ROWS, :COLUMNS] for m in matrices)
    largest = max(expected.abs().max().item(), 1e-12)
    shades = tuple((tensor / largest).nan_to_num(0).clamp(-1, 1).tolist() for tensor in (expected, received))
    digits = _digits(expected, received, off)
    cut = "" if shape[-2] <= ROWS and shape[-1] <= COLUMNS else ", a part"
    where = f" (sample {index}{cut})" if matrices[0].shape[0] > 1 else f" ({cut[2:]})" if cut else ""
    texts = [[[f"{value:7.{digits}f}" for value in row] for row in tensor.tolist()] for tensor in (expected, received)]
    return Grid(*texts, off.tolist(), shades, first_row, where)


def _digits(expected: Tensor, received: Tensor, off: Tensor) -> int:
    """Choose as many decimals as it takes to see every difference."""
    pairs = list(zip(expected[off].tolist(), received[off].tolist(), strict=True))
    return next((n for n in (2, 3, 4) if all(f"{a:.{n}f}" != f"{b:.{n}f}" for a, b in pairs)), 6)


def _both_written(comparison: Comparison) -> tuple[str, str]:
    """Write out two things that are not drawn; numbers that differ get as many digits as it takes to see it."""
    expected, received = comparison.expected, comparison.received
    if isinstance(expected, int | float) and isinstance(received, int | float) and expected != received:
        for digits in range(6, 18):
            texts = _written(expected, digits), _written(received, digits)
            if texts[0] != texts[1]:
                return texts
    return _written(expected), _written(received)


def _written(value: Any, digits: int = 6) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
