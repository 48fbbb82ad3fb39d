"""How results are shown: one kind of table, and one look for each mechanism in every figure."""

import zlib

THE_FOUR = ("vanilla", "softmax1", "temperature", "differential")  # the mechanisms of model.py, without ideas/


def table(rows):
    """Markdown of dicts: a column for every key, in the order in which the rows bring them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[shown(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def shown(value):
    """A cell: a float with three digits, [lower quartile, median, upper quartile] as median (lower-upper)."""
    if isinstance(value, list):
        low, median, high = map(shown, value)
        return f"{median} ({low}-{high})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def look(name):
    """Colour, marker and line style of a mechanism, for matplotlib; the four differ in each, also in grey."""
    known, number = (*THE_FOUR, "nanoGPT"), zlib.crc32(name.encode())
    if name in known:
        color, marker, line = (known.index(name),) * 3
    else:
        color, marker, line = 5 + number % 5, 5 + number // 5 % 8, number // 40
    return {"color": f"C{color}", "marker": "osD^xvP*<>Xhd"[marker], "ls": ("-", "--", "-.", ":")[line % 4]}
