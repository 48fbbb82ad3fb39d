"""One file answers one question: it prints numbers, draws a figure and adds a JSON line per run to --out."""
