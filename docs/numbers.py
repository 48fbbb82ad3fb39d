"""The numbers of the tutorial, the records and the README, computed again from docs/results."""

from docs.kept import DOCS, less, results
from docs.of_ideas import of_ideas, of_learned, of_more_steps, of_no_positions, of_their_prose
from docs.of_tasks import of_course, of_missing, of_needles, of_one_layer, of_solved, of_the_answer
from docs.of_text import of_inside, of_longer, of_near_zero, of_parts, of_text, of_text_again

MISTAKES = {  # of chapter 6, and what each of them should have been
    **dict.fromkeys(("halved", "split-late", "scores", "no-norm", "no-scale", "one-based"), "differential"),
    "zero-token": "softmax1",
}


def drifted():
    """[(page, text)] for every text with numbers that a page should have, as computed now, and has not."""
    paths = {path.name: path for path in DOCS.glob("*.md")} | {"the README": DOCS.parent / "README.md"}
    pages = {name: " ".join(path.read_text(encoding="utf-8").split()) for name, path in paths.items()}
    return [(page, text) for page, text in numbers() if " ".join(text.split()) not in pages[page]]


def numbers():
    """(page, text): what the pages say of docs/results, computed from there again."""
    of_all = (
        of_missing,
        of_the_answer,
        of_solved,
        of_one_layer,
        of_text,
        of_text_again,
        of_longer,
        of_parts,
        of_ideas,
        of_their_prose,
        of_learned,
        of_no_positions,
        of_more_steps,
        of_inside,
        of_near_zero,
        of_course,
        of_mistakes,
        of_needles,
        of_speed,
    )
    for some in of_all:
        yield from some()


def of_speed():
    """Rows that two pages share."""
    for line in (DOCS / "07-fast.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(("| softmax1,", "| temperature,", "| differential,", "| vanilla,")):
            yield "speed.md", line.removesuffix(" |")


def of_mistakes():
    """What each mistake does to the loss."""
    runs = results("mistakes")["runs"]
    for name, right in MISTAKES.items():
        yield "06-wrong.md", f"| {less(runs, name, right)} |"
    for page, name in (("06-wrong.md", "no-norm"), ("results.md", "no-norm"), ("06-wrong.md", "differential")):
        yield page, less(runs, name, "vanilla")
