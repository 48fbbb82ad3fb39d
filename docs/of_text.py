"""What the pages say of text, computed from docs/results: (page, text) of each number."""

import functools

import numpy as np

from docs.kept import accuracy, difference_of, interval, less, loss_of, results, signed, solved_at
from lab.analyze import summary
from lab.show import THE_FOUR
from lab.spread import spread


def of_text():
    """Text with a fair recipe: what was chosen, losses and differences on both texts."""
    text, (wider,), code = results("text"), results("text-wider")["table"], results("code")["table"]
    for row in text["table"]:
        _, init_std, rate, n_head = text["chosen"][row["attention"]].rsplit("-", 3)
        setting = f"{row['attention']} | {init_std} | {rate} | {n_head}"
        yield "results.md", f"| {setting} | {loss_of(row)} | {difference_of(row)} | {row['parameters']:,} |"
        if row["attention"] in THE_FOUR:
            yield "the README", f"| {row['attention']} | {loss_of(row, 3)} | {difference_of(row, 3)}".rstrip()
    yield "results.md", f"{loss_of(wider)} nats"
    both = [run for run in text["runs"] if run["attention"] == "v2"] + results("text-wider")["runs"]
    yield "results.md", f"{less(both, 'v2', 'vanilla', 4)}: its lead"
    yield "08-measured.md", f"{less(both, 'v2', 'vanilla')}."
    for row in code:
        yield "results.md", f"| {row['attention']} | {loss_of(row)} | {difference_of(row)} |"
    for rows in (text["table"], code):
        short = [loss_of(rows[0], 3), *(difference_of(row, 3) for row in rows[1:])]
        yield "08-measured.md", " | ".join(short)
        for difference in short[1:3]:
            yield "02-without-subtraction.md", difference
    for row in results("first-recipe")["table"]:
        yield "results.md", f"| {row['attention']} | {loss_of(row)} | {difference_of(row)} |"
    gains = [signed(x, 3) for x in by_first_weights(text["tuning"], "0.02").values()]
    yield "results.md", f"| 0.02 instead of 0.088 | {' | '.join(gains)} |"
    larger = {attention: [] for attention in text["chosen"]}
    for run in [*results("text-edge")["runs"], *results("text-edge-temperature")["runs"]]:
        tuned = text["tuning"][text["chosen"][run["attention"]]][str(run["seed"])]
        larger[run["attention"]].append(run["val_loss"] - tuned["val_loss"])
    yield "results.md", f"| 0.125 instead of 0.088 | {' | '.join(signed(np.mean(x), 3) for x in larger.values())} |"


def of_text_again():
    """Differential's six runs since its maps are subtracted before V; vanilla's give the same numbers as before."""
    vanilla = []
    for of in (results("text"), results("text-again")):
        vanilla.append({run["seed"]: run["val_loss"] for run in of["runs"] if run["attention"] == "vanilla"})
    assert vanilla[0] == vanilla[1]  # "to the last bit"
    row = results("text-again")["table"][1]
    assert min(row["pairs"].values()) > 0  # "in each of the six seeds"
    yield "results.md", f"{loss_of(row)}, behind by {difference_of(row).lstrip('+')}, in each of the six seeds"


def by_first_weights(tuning, first):
    """{mechanism: mean of the losses with these first weights less those with 0.088, over rates and maps}."""
    losses, found = {}, {}
    for name, by_seed in tuning.items():
        attention, init_std, *rest = name.rsplit("-", 3)
        losses[attention, init_std, *rest] = by_seed["101"]["val_loss"]
    for (attention, init_std, *rest), loss in losses.items():
        if init_std == first:
            found.setdefault(attention, []).append(loss - losses[attention, "0.088", *rest])
    return {attention: np.mean(values) for attention, values in found.items()}


LONGER = {  # of docs/results, as results.md names them
    "text": "as above: windows of 64, 1200 steps, 4 maps",
    "text-block_size=256": "windows of 256",
    "text-max_iters=4800": "4800 steps",
    "text-8-maps": "8 maps",
    "text-16-maps": "16 maps, both tuned again",
    "equal-time": "in the time of vanilla's 1200 steps (`--equal=time`; differential: 1093)",
}


def of_longer():
    """Differential minus vanilla with longer windows, more steps, more maps, and in equal time."""
    for name, label in LONGER.items():
        of = {row["attention"]: row for row in results(name)["table"]}
        row, pairs = of["differential"], [signed(x, 3) for x in of["differential"]["pairs"].values()]
        cells = [loss_of(of["vanilla"]), loss_of(row), difference_of(row), " ".join(pairs)]
        yield "results.md", f"| {label} | {' | '.join(cells)} |"


def of_parts():
    """Which part? Differential with one part changed, on the task and on text."""
    task = {row["attention"]: row for name in ("missing-controls", "missing-narrow") for row in results(name)["table"]}
    text = {row["attention"]: difference_of(row, 3) for row in results("text-parts")["table"]}
    runs = [*results("text-parts")["runs"]]
    runs += [run | {"attention": "two heads"} for run in results("text-2-heads")["runs"]]  # of vanilla
    for name, row in task.items():
        cells = [name, accuracy(row), solved_at(row), text.get(name, "")]
        cells.append(less(runs, name, "differential") if name in text and name != "differential" else "")
        yield "results.md", f"| {' | '.join(cells)} |"
    for name in ("normed-vanilla", "lambda-zero", "differential", "no-norm", "sum", "tied", "tied-0.9"):
        yield "08-measured.md", f"| {text[name]} |"
    yield "08-measured.md", f"the difference against the sum {less(runs, 'differential', 'sum')}"
    eight_each = next(row for row in results("text-8-maps")["table"] if row["attention"] == "differential")
    yield "08-measured.md", f"is level with a vanilla of 8 ({difference_of(eight_each, 3)})"
    rival = [less(results(name)["runs"], "differential", "temperature").lstrip("+") for name in ("text", "code")]
    yield "09-questions.md", "is ahead of differential, by {} and {} on our two texts".format(*rival)
    two_heads = less(runs, "two heads", "vanilla")
    yield "results.md", f"| {two_heads} | {less(runs, 'two heads', 'differential')} |"
    yield "08-measured.md", f"| {two_heads} |"
    yield "09-questions.md", f"is behind by {two_heads.lstrip('+')}"
    yield "the README", f"a vanilla cut to two heads is itself behind by {two_heads.lstrip('+')}"
    eight = [run for run in results("text-8-maps")["runs"] if run["attention"] == "differential"]
    four = [run for run in results("text")["runs"] if run["attention"] == "vanilla"]
    yield (
        "08-measured.md",
        f"the best vanilla, which has 4, by {less([*eight, *four], 'differential', 'vanilla').lstrip('+')}",
    )
    for page in ("results.md", "08-measured.md"):
        yield page, less(runs, "tied-0.9", "tied").lstrip("+")
    names = ("differential", "lambda-zero", "no-norm", "sum", "tied")
    yield "results.md", f"| {' | '.join(less(runs, name, 'two heads') for name in names)} |"
    yield "08-measured.md", f"a vanilla with as few heads by {less(runs, 'tied', 'two heads', 4).lstrip('−')}"
    with_08, with_05, no_norm, tied = (
        less(runs, name, "differential") for name in ("init-0.8", "init-0.5", "no-norm", "tied")
    )
    yield "08-measured.md", f"| with 0.8 {with_08}, with 0.5 {with_05} |"
    yield "08-measured.md", f"without it {no_norm} |"
    yield "06-wrong.md", f"the same gain is {no_norm.lstrip('−')}"
    yield "08-measured.md", f"ahead of differential by {tied.lstrip('−')}"
    yield "results.md", f"are {less(runs, 'lambda-zero', 'normed-vanilla').lstrip('+')} behind vanilla with the norm"
    for page in ("results.md", "08-measured.md"):
        yield page, f"where λ is fixed it costs {less(runs, 'fixed-lambda', 'tied', 4).lstrip('+')}"


@functools.cache
def summaries(folder):
    """{mechanism: the numbers of each seed's checkpoint}."""
    groups = {name: [] for name in THE_FOUR}
    for entry in results(folder)["checkpoints"]:
        groups[entry["attention"]].append(summary(entry))
    return groups


def seeds(name, what, digits):
    """Mean ± standard deviation over seeds of a number of a mechanism's checkpoints; '' where it has none."""
    if what not in summaries("analysis-text-seeds")[name][0]:
        return ""
    values = [row[what] for row in summaries("analysis-text-seeds")[name]]
    mean, sd = np.mean(values), np.std(values, ddof=1)
    number = signed(mean, digits) if what[0] == "Δ" else f"{mean:.{digits}f}"
    return f"{number} ± {sd:.{digits}f}" if sd >= 0.5 * 10**-digits else f"{mean:g}" if sd == 0 else number


INSIDE = (  # label in results.md, key of `lab.analyze`, digits
    ("row sum", "row_sum", 2),
    ("share of negative weights", "negative_share", 2),
    ("their share of Σ\\|a\\|", "negative_mass", 2),
    ("effective number of tokens", "effective_tokens", 1),
    ("the same of $A_1$ alone", "A1_effective_tokens", 1),
    ("\\|a\\| below 0.001", "at_most_0.001", 2),
    ("\\|a\\| below 0.00001", "at_most_1e-05", 2),
    ("\\|a\\| = 0 exactly", "at_most_0", 2),
    ("on the first token", "on_first", 3),
    ("on itself", "on_itself", 2),
    ("on the previous token", "on_previous", 2),
    ("heads that are sinks", "sink_rate", 2),
    ("cosine of two heads' maps", "head_cosine", 2),
    ("cosine of $A_1$ and $A_2$", "A1_A2_cosine", 2),
    ("outputs outside the box of the values", "outside_box", 3),
    ("attention logits, top 1", "logits top_1", 1),
    ("top 10", "logits top_10", 1),
    ("top 100", "logits top_100", 1),
    ("median", "logits median", 1),
    ("kurtosis", "logits kurtosis", 1),
    ("hidden states, top 1", "hidden top_1", 0),
    ("top 10", "hidden top_10", 0),
    ("top 100", "hidden top_100", 0),
    ("median", "hidden median", 1),
    ("kurtosis", "hidden kurtosis", 1),
    ("Δ loss, logits in 8 bits", "Δ loss, logits in 8 bits", 4),
    ("6 bits", "Δ loss, logits in 6 bits", 4),
    ("4 bits", "Δ loss, logits in 4 bits", 3),
    ("loss, completes a 4-gram seen in the window (2.4 % of tokens)", "loss of repeated n-grams", 3),
    ("the rest", "loss of the rest", 3),
    ("weights within ±0.001 by 0", "Δ loss, weights within ±0.001 by 0", 4),
    ("weights within ±0.01 by 0", "Δ loss, weights within ±0.01 by 0", 4),
    ("weight on the first token by 0", "Δ loss, first token by 0", 3),
    ("A by its mean over windows", "Δ loss, A by its mean", 2),
    ("negative weights by 0", "Δ loss, negative by 0", 2),
    ("as much positive weight by 0", "Δ loss, as much positive by 0", 2),
    ("λ by 0", "Δ loss, λ by 0", 2),
    ("A₂ by the mean of its row", "Δ loss, A₂ by its row's mean", 2),
    ("A₂ by its mean over windows", "Δ loss, A₂ by its mean", 2),
)


def of_inside():
    """Inside models of text that were tuned alike: maps, sizes, and what parts are worth."""
    for label, what, digits in INSIDE:
        yield "results.md", f"| {label} | {' | '.join(seeds(name, what, digits) for name in THE_FOUR)} |"
    for lam in lambdas():
        yield "results.md", f"| {lam} |"
    for page, names, label, what, digits in (
        ("01-budget.md", ["vanilla"], "on the first token", "on_first", 3),
        ("01-budget.md", ["vanilla"], "on the token itself", "on_itself", 2),
        ("01-budget.md", ["vanilla"], "on the one before it", "on_previous", 2),
        ("01-budget.md", ["vanilla"], "effective number of tokens (e to the entropy)", "effective_tokens", 1),
        ("02-without-subtraction.md", THE_FOUR[:2], "sum of a row", "row_sum", 2),
        ("02-without-subtraction.md", THE_FOUR[:2], "weight on the first token", "on_first", 3),
        (
            "02-without-subtraction.md",
            THE_FOUR[:2],
            "largest number between the layers (an outlier)",
            "hidden top_1",
            0,
        ),
        (
            "02-without-subtraction.md",
            THE_FOUR[:2],
            "rise of the loss when scores are rounded to 4 bits",
            "Δ loss, logits in 4 bits",
            3,
        ),
    ):
        yield page, f"| {label} | {' | '.join(seeds(name, what, digits) for name in names)} |"
    yield "01-budget.md", f"is {seeds('vanilla', 'logits top_1', 1)} in absolute value"
    yield "02-without-subtraction.md", f"{seeds('temperature', 'effective_tokens', 1)} effective tokens"
    for what, digits in (("logits top_1", 1), ("hidden top_1", 0)):
        both = [seeds(name, what, digits) for name in ("vanilla", "differential")]
        yield "08-measured.md", f"| {both[0]} → {both[1]} |"
    both = [seeds(name, "Δ loss, logits in 4 bits", 3) for name in ("vanilla", "differential")]
    yield "08-measured.md", f"loss {both[0]} → {both[1]}"
    of = {a: {row["seed"]: row for row in summaries("analysis-text-seeds")[a]} for a in ("vanilla", "differential")}
    lags = [
        spread([of["differential"][seed][what] - of["vanilla"][seed][what] for seed in of["vanilla"]])
        for what in ("loss of repeated n-grams", "loss of the rest")
    ]
    repeated, rest = (interval(lag, 3) for lag in lags)
    yield "08-measured.md", f"| {repeated} there, {rest} elsewhere |"
    yield "results.md", f"lags by {repeated} where something is to be looked up and by {rest} elsewhere"


def learned(attention):
    """[what each seed of text learned] in one mechanism's layers: λ or g, at first and now."""
    found = [e["learned"] for e in results("analysis-text-seeds")["checkpoints"] if e["attention"] == attention]
    return [next(iter(one.values())) for one in found]


def lambdas():
    """λ of each layer, at first and at the end, every seed, as a table's cells."""
    lam = np.array([[one["start"], one["now"]] for one in learned("differential")])  # (seeds, 2, layers)
    for layer in range(lam.shape[-1]):
        yield " | ".join([str(layer), *(" ".join(f"{x:.2f}" for x in lam[:, when, layer]) for when in (0, 1))])


def of_near_zero():
    """Inside the models of text that were tuned alike, as chapter 4 tells it."""

    def both(what, digits):
        return [seeds(name, what, digits) for name in ("differential", "vanilla")]

    small = (
        ("at_most_0.01", 2),
        ("at_most_0.001", 2),
        ("at_most_1e-05", 2),
        ("gradient_at_most_0.001", 3),
        ("output_overlap", 2),
    )
    near = [seeds(name, "at_most_0.01", 2)[2:4] for name in ("differential", "vanilla")]
    yield (
        "04-near-zero.md",
        "In our models of text {} % of a difference's weights are, and {} % of vanilla's".format(*near),
    )
    by_itself = [seeds("differential", f"zero_by_itself{limit}", 2) for limit in ("", "_0.01")]
    yield "04-near-zero.md", "{} are as small in $A_1$ already, of those within ±0.01 {}".format(*by_itself)
    for what, digits in (("effective_tokens", 1), *small):
        yield "04-near-zero.md", f"| {' | '.join(both(what, digits))} |"
    for what in ("negative_share", "negative_mass"):
        yield "04-near-zero.md", f"| {both(what, 2)[0]} | 0 |"
    some = (("weights within ±0.01 by 0", 4), ("first token by 0", 3), ("A by its mean", 2), ("logits in 4 bits", 3))
    for what, digits in some:
        yield "04-near-zero.md", f"| {' | '.join(reversed(both(f'Δ loss, {what}', digits)))} |"
    for what in ("negative by 0", "as much positive by 0", "λ by 0", "A₂ by its row's mean", "A₂ by its mean"):
        name = seeds("differential", f"Δ loss, {what}", 2)
        yield "04-near-zero.md", f"| | {name} |"
    for what, digits in (("A1_effective_tokens", 1), ("A1_A2_cosine", 2), ("zero_by_itself", 2)):
        yield "04-near-zero.md", seeds("differential", what, digits)
    lam = [value for one in learned("differential") for value in one["now"]]
    yield "04-near-zero.md", f"ends anywhere from {min(lam):.2f} to {max(lam):.2f}"
    cosine = np.mean([row["A1_A2_cosine"] for row in summaries("analysis-text-seeds")["differential"]])
    yield "09-questions.md", f"their cosine is {cosine:.2f}"
