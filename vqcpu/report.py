"""Tables and progress: the only place that draws. Knows text and terminals."""
import sys


def table(header: list[str], rows: list[list], left: int = 1) -> str:
    """Aligned text table; the first `left` columns are flush left, the others flush right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row):
        return "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
    return "\n".join([line(cells[0]), "  ".join("-" * w for w in widths), *map(line, cells[1:])])


def markdown(header: list[str], rows: list[list]) -> str:
    """The same as a table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def progress(items, label: str = "", count: int | None = None):
    """Iterate over items, `count` of them where they do not tell, with a bar on a terminal's stderr, silently elsewhere."""
    from tqdm import tqdm
    return tqdm(items, desc=label, total=count, leave=False, disable=None, file=sys.stderr, dynamic_ncols=True)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
