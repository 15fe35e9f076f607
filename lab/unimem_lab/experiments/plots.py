"""Curves as SVG that stands in the page itself; drawn by matplotlib, the same bytes for the same figures."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from unimem_lab.experiments.schema import Plot
from unimem_lab.experiments.values import parse_size

if TYPE_CHECKING:
    from unimem_lab.experiments.results import Point

#: Okabe and Ito's colours, told apart by everybody.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_MARKS: Final = "os^Dv<>P"


def curves(plot: Plot, points: Sequence[Point]) -> dict[str, list[tuple[Any, float]]]:
    """The lines of a plot by their names, in the order in which they were measured."""
    found: dict[str, list[tuple[Any, float]]] = {}
    for point in points:
        if plot.x not in point.keys or not point.at(plot.at):
            continue
        for quantity in plot.quantities:
            if quantity in point.quantities:
                names = [quantity] if len(plot.quantities) > 1 else []
                names += [_name(point.keys.get(plot.lines))] if plot.lines else []
                line = found.setdefault(", ".join(names), [])
                line.append((point.keys[plot.x], float(point.quantities[quantity])))
    return found


def draw(plot: Plot, points: Sequence[Point], salt: str) -> str | None:
    """A plot as an <svg> element, or None when nothing was measured of it. `salt`: makes its ids its own."""
    lines = curves(plot, points)
    if not lines:
        return None
    import matplotlib as mpl  # noqa: PLC0415 - half a second

    mpl.use("svg")
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: Any = {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        numeric = all(_number(x) is not None for line in lines.values() for x, _ in line)
        names = list(dict.fromkeys(_name(x) for line in lines.values() for x, _ in line))
        for place, (name, line) in enumerate(lines.items()):
            colour, ys = _COLOURS[place % len(_COLOURS)], [y for _, y in line]
            if numeric:
                xs = [float(_number(x) or 0) for x, _ in line]
                mark = _MARKS[place % len(_MARKS)]
                axes.plot(xs, ys, label=name, color=colour, marker=mark, markersize=3.5, linewidth=1.3)
            else:
                width = 0.8 / len(lines)
                at = [names.index(_name(x)) - 0.4 + (place + 0.5) * width for x, _ in line]
                axes.bar(at, ys, width * 0.92, label=name, color=colour)
        if not numeric:
            axes.set_xticks(range(len(names)), names)
        if plot.published:
            axes.plot(
                [x for x, _ in plot.published],
                [y for _, y in plot.published],
                linestyle="none",
                marker="x",
                markersize=8,
                color="#b3261e",
                label="published",
            )
        if "x" in plot.log and numeric:
            axes.set_xscale("log", base=2 if _binary(lines) else 10)
        if "y" in plot.log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(plot.x_label or plot.x.rpartition(".")[2])
        axes.set_ylabel(plot.y_label or ", ".join(plot.quantities))
        axes.set_axisbelow(True)
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1 or plot.published:
            figure.legend(loc="outside right upper", frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Two plots on one page would both have an element called figure_1.
    return re.sub(r'id="((?:figure|axes|patch|line2d|matplotlib|xtick|ytick|text|legend)\w*)"', "", svg)


def _name(x: Any) -> str:
    """A value of a swept key for people."""
    return "\n+ ".join(map(str, x)) if isinstance(x, list | tuple) else str(x)


def _number(x: Any) -> float | None:
    try:
        value = parse_size(x)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _binary(lines: dict[str, list[tuple[Any, float]]]) -> bool:
    """Whether all x are powers of two, as sizes are."""
    xs = [_number(x) or 0.0 for line in lines.values() for x, _ in line]
    return all(x > 0 and x == int(x) and int(x) & int(x) - 1 == 0 for x in xs)
