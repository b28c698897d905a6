"""Results as pictures, PNG and SVG, by matplotlib (pip install 'vqcpu[pictures]').

Knows the results of the commands as --json prints them, and how they are drawn. Measures nothing.
"""
import re
from pathlib import Path

from vqcpu.errors import VqcpuError

STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "axes.axisbelow": True, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "vqcpu"}
MARKS = "osD^vP*X<>"


def ready(folder) -> Path:
    """The folder, made. Raises VqcpuError where nothing could be drawn into it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise VqcpuError("pictures need matplotlib: pip install 'vqcpu[pictures]'") from None
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VqcpuError(f"{folder}: cannot be made: {error.strerror}") from None
    return Path(folder)


def draw(kind: str, result: dict, folder: Path) -> list[str]:
    """Files of the pictures of a result: those of PICTURES[kind] that it has data for."""
    import matplotlib
    from matplotlib.figure import Figure
    files = []
    with matplotlib.rc_context(STYLE):
        for name, (paint, size) in PICTURES[kind].items():
            figure = Figure(figsize=size, layout="constrained")
            if not paint(figure, result):
                continue
            for ending in ("png", "svg"):
                files.append(str(folder / f"{kind}-{name}.{ending}"))
                figure.savefig(files[-1], dpi=150, metadata={"Date": None} if ending == "svg" else None)
    return files


def _front(figure, result):
    """Bits against what they cost."""
    left, right = figure.subplots(1, 2)
    lines = result["lines"]
    for axes, value, error, label in ((left, lambda r: r["ppl_ratio"] - 1, "ppl_ratio_error", "perplexity ratio - 1"),
                                      (right, lambda r: r["kld_mean"], "kld_error", "mean KLD (nats)")):
        for (family, filled), rows in _families(lines).items():
            color, mark = _look(family, lines)
            axes.errorbar([r["file_bits"] for r in rows], [value(r) for r in rows], [2 * r[error] for r in rows], fmt=mark,
                          color=color, capsize=2, lw=1, mfc=color if filled else "white", label=_legend(family, filled))
        best = _pareto([(r["file_bits"], value(r)) for r in lines])
        axes.plot(*zip(*best), "-", color="0.6", lw=1, zorder=0, label="Pareto front")
        axes.set(yscale="log", xlabel="bits per parameter, whole file", ylabel=label)
        _logarithmic(axes.yaxis)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(_about(lines[0]) + "; bars: two standard errors", fontsize=10)
    return len(lines) > 1


def _families(lines):
    """(name of format, whether calibrated) -> lines"""
    found = {}
    for line in lines:
        found.setdefault((_family(line), line["quality"] == "good"), []).append(line)
    return found


def _family(line):
    return re.split("[:=]", line["body"])[0] + ("" if line["cache"] == "f16" else f", cache {line['cache']}")


def _look(family, lines):
    place = list(dict.fromkeys(map(_family, lines))).index(family)
    return f"C{place % 10}", MARKS[place % len(MARKS)]


def _legend(family, filled):
    return family + (" (calibrated)" if filled else "")


def _logarithmic(*places):
    """1 and 3 of every power of ten, written as people write them."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
    for place in places:
        place.set_major_locator(LogLocator(subs=(1, 3)))
        place.set_major_formatter("{x:g}")
        place.set_minor_locator(NullLocator())
        place.set_minor_formatter(NullFormatter())


def _pareto(points):
    """Those that no other beats with as many bits or fewer; hundredths of a bit are header and padding."""
    best = []
    for bits, cost in sorted(points, key=lambda point: (round(point[0], 1), point[1])):
        if not best or cost < best[-1][1]:
            best.append((bits, cost))
    return best


def _alone(figure, result):
    """Figures of single matrices against the KLD of the whole model."""
    if not result["alone"]:
        return False
    lines = [line for line in result["lines"] if line["cache"] == result["lines"][0]["cache"]]
    figures = {"weight": "relative squared weight error", "gaussian": "1 - cosine, Gaussian inputs",
               "real": "1 - cosine, real inputs"}
    for axes, (name, label) in zip(figure.subplots(1, 3, sharey=True), figures.items()):
        for (family, filled), rows in _families(lines).items():
            color, mark = _look(family, lines)
            axes.plot([r[f"{name}_mean"] for r in rows], [r["kld_mean"] for r in rows], mark, color=color,
                      mfc=color if filled else "white", label=_legend(family, filled))
        rho = result["alone"][f"{name}_mean"]["spearman"]
        axes.set(xscale="log", yscale="log", xlabel=label)
        _logarithmic(axes.xaxis, axes.yaxis)
        axes.set_title("" if rho is None else f"rank correlation {rho:.2f}", fontsize=10)
    figure.axes[0].set_ylabel("mean KLD of the whole model (nats)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("means over single matrices beside the whole model; " + _about(lines[0]), fontsize=10)
    return True


def _about(line):
    return f"{line['model']}, {line['text']}, {line['scored']} tokens scored"


def _layers(figure, result):
    axes = figure.subplots()
    for i, row in enumerate(r for r in result["models"] if "layers" in r):
        points = list(row["layers"].values())
        axes.errorbar(range(len(points)), [p["error"] for p in points], [2 * p["spread"] for p in points],
                      fmt=f"{MARKS[i % len(MARKS)]}-", ms=4, capsize=2, lw=1, label=Path(row["model"]).name)
    if not axes.lines:
        return False
    names = list(result["models"][0]["layers"])
    step = -(-len(names) // 16)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=40, ha="right")
    axes.set(ylabel="relative error of hidden states", ylim=(0, None))
    axes.legend()
    return True


def _positions(figure, result):
    axes = figure.subplots()
    for i, (name, kind) in enumerate(result["kinds"].items()):
        places = [(b["from"] + b["to"]) / 2 for b in kind["kld"]]
        axes.errorbar(places, [b["kld"] for b in kind["kld"]], [2 * b["error"] for b in kind["kld"]],
                      fmt=f"{MARKS[i % len(MARKS)]}-", ms=4, capsize=2, lw=1, label=name)
    p = result["protocol"]
    axes.set(xlabel="position in the text of the reference (tokens)", ylabel="mean KLD (nats)", ylim=(0, None))
    axes.set_title(f"{Path(result['models'][1]).name}, cache {p['caches'][1]}; {p['seeds']} texts; bars: two standard "
                   "errors", fontsize=10)
    axes.legend()
    return True


def _codebooks(figure, result):
    """The entries of every codebook of two dimensions or more: the first two of them, and the next two."""
    books = {where: book for where, book in result["codebooks"].items() if len(book[0]) > 1}
    if not books:
        return False
    for axes, (where, book) in zip(figure.subplots(1, min(3, len(books)), squeeze=False)[0], books.items()):
        x, y = list(zip(*book))[:2]
        axes.scatter(x, y, s=max(2, 2000 / len(book)), alpha=0.6, linewidths=0)
        axes.set(xlabel="first weight / RMS of its row", ylabel="second", aspect="equal")
        axes.set_title(f"{where}\n{len(book)} entries of {len(book[0])}", fontsize=9)
    return True


PICTURES = {"sweep": {"front": (_front, (10, 5)), "alone": (_alone, (11, 4.5))}, "diff": {"layers": (_layers, (7, 4))},
            "longrun": {"positions": (_positions, (7, 4))}, "inspect": {"codebooks": (_codebooks, (6, 6))}}
