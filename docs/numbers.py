"""The numbers of the tutorial, the records and the README, computed again from docs/results."""

import functools

import numpy as np

from docs.kept import DOCS, accuracy, difference_of, loss_of, on_text, parts, results, signed, solved_at, value
from lab.analyze import summary
from lab.compare import paired, spread
from lab.one_layer import best_lam, least_error
from lab.one_layer import summary as of_settings
from lab.show import THE_FOUR

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
        of_one_layer,
        of_text,
        of_longer,
        of_parts,
        of_inside,
        of_near_zero,
        of_course,
        of_mistakes,
        of_needles,
        of_speed,
    )
    for some in of_all:
        yield from some()


def of_needles():
    """Needles that were found, N = 4, every seed."""
    found = {name: [] for name in THE_FOUR}
    for run in results("needles")["runs"]:
        found[run["attention"]].append(f"{run['needles']['by_n'][3]['exact']:.2f}")
    exact = {name: " ".join(cells) for name, cells in found.items()}
    yield "08-measured.md", f"seeds 1 2 3: {exact['vanilla']} → {exact['differential']}"
    small = " ".join(f"{run['needles']['by_n'][3]['exact']:.2f}" for run in results("needles-small")["runs"])
    yield "08-measured.md", f"vanilla's {exact['vanilla']} into {small}"
    for row in results("needles")["table"]:
        yield "results.md", f"| {row['attention']} | {loss_of(row, 3)} | {difference_of(row, 3)}".rstrip()
        yield "results.md", exact[row["attention"]]
    inside = [e for e in results("analysis-needles-seeds")["checkpoints"] if e["attention"] == "differential"]
    lam = [signed(entry["learned"]["lam"]["now"][0], 2) for entry in inside]
    yield "results.md", f"in every seed ({', '.join(lam)})"
    yield "03-subtraction.md", f"(λ from {max(lam, key=value)} to {min(lam, key=value)},"


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
    of = paired(
        [row for row in text["runs"] if row["attention"] == "v2"] + results("text-wider")["runs"], "v2", "vanilla"
    )
    yield "results.md", f"{signed(of['mean'], 4)} ± {of['half']:.4f}: its lead"
    yield "08-measured.md", f"{signed(of['mean'], 3)} ± {of['half']:.3f}."
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


LONGER = {  # of docs/results, as results.md names them
    "text": "as above: windows of 64, 1200 steps, 4 maps",
    "text-block_size=256": "windows of 256",
    "text-max_iters=4800": "4800 steps",
    "text-8-maps": "8 maps",
    "text-16-maps": "16 maps, both tuned again",
    "equal-time": "in the time of vanilla's 1200 steps (`--equal=time`; differential: 990)",
}


def of_longer():
    """Differential less vanilla with longer windows, more steps, more maps, and in equal time."""
    for name, label in LONGER.items():
        of = {row["attention"]: row for row in results(name)["table"]}
        row, pairs = of["differential"], [signed(x, 3) for x in of["differential"]["pairs"].values()]
        cells = [loss_of(of["vanilla"]), loss_of(row), difference_of(row), " ".join(pairs)]
        yield "results.md", f"| {label} | {' | '.join(cells)} |"


def of_parts():
    """Which part? Differential with one part changed, on the task and on text."""
    for name, rows in parts().items():
        yield "results.md", parts_row(name, rows)
    for name in ("normed-vanilla", "lambda-zero", "differential", "no-norm", "sum", "tied"):
        yield "08-measured.md", f"| {on_text(parts()[name])} |"
    runs = [*results("text-parts")["runs"]]
    runs += [run | {"attention": "two heads"} for run in results("text-2-heads")["runs"]]  # of vanilla

    def less(name, other):
        of = paired(runs, name, other)
        return f"{signed(of['mean'], 3)} ± {of['half']:.3f}"

    yield "results.md", f"| {less('two heads', 'vanilla')} | {less('two heads', 'differential')} |"
    names = ("differential", "lambda-zero", "no-norm", "sum", "tied")
    yield "results.md", f"| {' | '.join(less(name, 'two heads') for name in names)} |"
    yield "08-measured.md", f"| {less('two heads', 'vanilla')} |"
    yield "09-questions.md", f"is behind by {less('two heads', 'vanilla').lstrip('+')}"
    yield "08-measured.md", f"ahead of it by {less('tied', 'two heads').lstrip('−')}"
    yield "08-measured.md", f"without it {less('no-norm', 'differential')} |"
    with_08, with_05 = (less(name, "differential") for name in ("init-0.8", "init-0.5"))
    yield "08-measured.md", f"| with 0.8 {with_08}, with 0.5 {with_05} |"
    yield "06-wrong.md", f"the same gain is {less('no-norm', 'differential').lstrip('−')}"
    yield "08-measured.md", f"ahead of differential by {less('tied', 'differential').lstrip('−')}"
    yield "results.md", f"are {less('lambda-zero', 'normed-vanilla').lstrip('+')} behind vanilla with the norm"


def parts_row(name, rows):
    """The cells of a part: accuracy, when it is solved, and the loss on text less vanilla's and less differential's."""
    cells = [name, accuracy(rows["task"]), solved_at(rows["task"]), on_text(rows), ""]
    if "fresh" in rows and name != "differential":
        of = paired(results("text-parts")["runs"], name, "differential")
        cells[-1] = f"{signed(of['mean'], 3)} ± {of['half']:.3f}"
    return f"| {' | '.join(cells)} |"


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
    ("weight on the first token by 0", "Δ loss, first token by 0", 3),
    ("A by its mean over windows", "Δ loss, A by its mean", 2),
    ("negative weights by 0", "Δ loss, negative by 0", 2),
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
    for label, what, digits in (
        ("on the first token", "on_first", 3),
        ("on the token itself", "on_itself", 2),
        ("on the one before it", "on_previous", 2),
        ("effective number of tokens (e to the entropy)", "effective_tokens", 1),
    ):
        yield "01-budget.md", f"| {label} | {seeds('vanilla', what, digits)} |"
    yield "01-budget.md", f"is {seeds('vanilla', 'logits top_1', 0)}"
    for label, what, digits in (
        ("sum of a row", "row_sum", 2),
        ("weight on the first token", "on_first", 3),
        ("largest hidden state", "hidden top_1", 0),
        ("change of the loss by logits in 4 bits", "Δ loss, logits in 4 bits", 3),
    ):
        both = " | ".join(seeds(name, what, digits) for name in ("vanilla", "softmax1"))
        yield "02-without-subtraction.md", f"| {label} | {both} |"
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
    repeated, rest = (f"{signed(lag['mean'], 3)} ± {lag['half']:.3f}" for lag in lags)
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
    for what, digits in (("effective_tokens", 1), *small):
        yield "04-near-zero.md", f"| {' | '.join(both(what, digits))} |"
    for what in ("negative_share", "negative_mass"):
        yield "04-near-zero.md", f"| {both(what, 2)[0]} | 0 |"
    for what, digits in (("first token by 0", 3), ("A by its mean", 2), ("logits in 4 bits", 3)):
        yield "04-near-zero.md", f"| {' | '.join(reversed(both(f'Δ loss, {what}', digits)))} |"
    for what in ("negative by 0", "λ by 0", "A₂ by its row's mean", "A₂ by its mean"):
        name = seeds("differential", f"Δ loss, {what}", 2)
        yield "04-near-zero.md", f"| | {name} |"
    for what, digits in (("A1_effective_tokens", 1), ("A1_A2_cosine", 2), ("zero_by_itself", 2)):
        yield "04-near-zero.md", seeds("differential", what, digits)
    lam = [value for one in learned("differential") for value in one["now"]]
    yield "04-near-zero.md", f"ends anywhere from {signed(min(lam), 2)} to {max(lam):.2f}"
    cosine = np.mean([row["A1_A2_cosine"] for row in summaries("analysis-text-seeds")["differential"]])
    yield "09-questions.md", f"their cosine is {cosine:.2f}"


def of_speed():
    """Rows that two pages share."""
    for line in (DOCS / "07-fast.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(("| softmax1,", "| temperature,", "| differential,", "| vanilla,")):
            yield "speed.md", line.removesuffix(" |")


def of_mistakes():
    """What each mistake does to the loss."""
    runs = results("mistakes")["runs"]
    for name, right in MISTAKES.items():
        of = paired(runs, name, right)
        yield "06-wrong.md", f"| {signed(of['mean'], 3)} ± {of['half']:.3f} |"
    for name, pages in (
        ("no-norm", ("06-wrong.md", "results.md")),
        ("differential", ("06-wrong.md",)),
    ):
        of = paired(runs, name, "vanilla")
        for page in pages:
            yield page, f"{signed(of['mean'], 3)} ± {of['half']:.3f}"


def of_missing():
    """Which one is missing? Accuracy at the end and when it was 99 %, of every mechanism, control and tuned setting."""
    for name in ("missing", "missing-long", "missing-tuned-long", "missing-controls", "missing-narrow", "missing-tune"):
        for row in results(name)["table"]:
            yield "results.md", f"| {accuracy(row)} | {solved_at(row)} |"
    for name, items in (("1-layers", 12), ("4-layers", 12), ("6", 6), ("24", 24), ("48", 48)):
        report = results(f"missing-{name}")
        rows = [row for row in report["table"] if row["attention"] in ("vanilla", "differential")]
        cells = [report["runs"][0]["config"]["n_layer"], items, rows[0]["steps"]]
        cells += [cell for row in rows for cell in (accuracy(row), solved_at(row))]
        yield "results.md", f"| {' | '.join(map(str, cells))} |"
    preset, best = (
        {row["attention"]: accuracy(row) for row in results(n)["table"]} for n in ("missing", "missing-tune")
    )
    vanilla = f"{preset['vanilla']}; at its best setting {best['vanilla']}, and"
    yield "08-measured.md", f"| {preset['differential']}, from step 150 on | {vanilla}"
    tuned = results("missing-tune")
    late = [row["solved_at"] for row in results("missing-tuned-long")["table"][:2]]
    span = f"{min(map(min, late))} to {max(map(max, late))}"
    yield "the README", f"vanilla and softmax1 get there after {span}"
    yield "00-a-task.md", f"does it get there, after {span}"
    n = {a: sum(by["101"] < 0.1 for name, by in tuned["tuning"].items() if name.startswith(f"{a}-")) for a in THE_FOUR}
    assert [*n.values()][:3] == [0, 0, 0]
    yield (
        "results.md",
        f"A loss below 0.1 differential has in {n['differential']} of its {len(tuned['tuning']) // 4} settings",
    )
    for setting in tuned["chosen"].values():
        name, init_std, rate, n_head = setting.rsplit("-", 3)
        yield "results.md", f"| {name} | {init_std} | {rate} | {n_head} |"
    solved = results("solved")["checkpoints"]
    first, second = (next(r for r in solved[0]["answering"] if r["map"] == name) for name in ("A₁", "A₂"))  # of layer 0
    shares = [f"{row[where]:.2f}" for row in (first, second) for where in ("first", "second")]
    yield "results.md", "$A_1$ has {} of its weight on the first and {} on the second, $A_2$ {} and {}.".format(*shares)
    rows = [row for name in ("missing-controls", "missing-narrow") for row in results(name)["table"]]
    controls = {row["attention"]: accuracy(row) for row in rows}
    for name in ("tied-0.9", "tied-narrow", "tied", "add-only", "wide-values", "normed-vanilla"):
        yield "00-a-task.md", f"(`{name}`) | {controls[name]} |"
    nine, fifteen = (np.mean([entry["by_n_items"][n] for entry in solved]) for n in ("9", "15"))
    yield "00-a-task.md", f"It does, with {nine:.2f} and {fifteen:.2f}"
    yield "00-a-task.md", f"from 1.00 to {np.mean([entry['interventions']['negative by 0'] for entry in solved]):.2f}"
    always = min(entry["orders"]["always"] for entry in solved)
    yield "results.md", f"is right in {always:.2f} of the contexts in every one"
    for kind in ("by_n_items", "interventions"):
        for key in solved[0][kind].keys() - {name for name in solved[0][kind] if "alone" in name}:
            some = [entry[kind][key] for entry in solved]
            yield "results.md", f"| {key} | {np.mean(some):.2f} ± {np.std(some, ddof=1):.2f} |"


def of_course():
    """Maps over training, on the task and on text."""

    def mean(name, step, attention="differential", of="course-missing"):
        rows = results(of)["rows"]
        return np.mean([row[name] for row in rows if (row["attention"], row["step"]) == (attention, step)])

    def at_end(name, attention="differential"):
        return mean(name, 1200, attention, "course-text")

    yield "04-near-zero.md", f"falls from {mean('A1_A2_cosine', 50):.2f} to {mean('A1_A2_cosine', 100):.2f}"
    yield "04-near-zero.md", ", ".join(f"{mean('accuracy', step):.2f} at step {step}" for step in (75, 100, 150))
    yield "04-near-zero.md", f"with {mean('effective_tokens', 400, 'vanilla'):.1f} effective tokens"
    yield "04-near-zero.md", f"with {mean('effective_tokens', 400, 'lambda-zero'):.1f}: both"
    yield "04-near-zero.md", f"$A_1$ of differential, {mean('A1_effective_tokens', 400):.1f}"
    fixed = f"λ fixed at 0 with {at_end('effective_tokens', 'lambda-zero'):.1f}."
    yield "04-near-zero.md", f"ends with {at_end('A1_effective_tokens'):.1f} effective tokens, and a layer with {fixed}"
    last = [row for row in results("course-text")["rows"] if row["step"] == 1200]
    losses = {(row["attention"], row["seed"]): row["val_loss"] for row in last}
    of = spread([losses["differential", seed] - losses["lambda-zero", seed] for seed in {row["seed"] for row in last}])
    for page in ("04-near-zero.md", "08-measured.md"):
        yield page, f"{signed(of['mean'], 3)} ± {of['half']:.3f}"


def of_one_layer():
    """One layer alone: λ learned and derived, errors, and those of regression in the context."""
    rows = {(r["attention"], r["n_items"], r["sigma"]): r for r in of_settings(results("noise")["runs"])}
    for (name, n, sigma), row in rows.items():
        if name == "no-norm":
            lams = " ".join(f"{lam:.3f}" for lam in row["lams"])
            theory = f"{best_lam(sigma, n):.3f} | {lams} | {least_error(sigma, n):.4f} | {error(row)}"
            others = " | ".join(error(rows[other, n, sigma]) for other in ("differential", "vanilla"))
            yield "results.md", f"| {n} | {sigma:g} | {theory} | {others} |"
    plain = [row for (name, _, _), row in rows.items() if name == "no-norm"]
    off = [abs(lam - row["best_lam"]) for row in plain for lam in row["lams"]]
    near, limit = sum(x < 0.0045 for x in off), sum(r["error"]["mean"] < 1.1 * r["least_error"] for r in plain)
    yield "results.md", f"{near} of the {len(off)} runs within 0.0045"
    yield "04-near-zero.md", f"In {near} of {len(off)} runs"
    yield "results.md", f"it is in {['nine', 'ten', 'eleven'][limit - 9]} of twelve"
    ratio = max(rows["vanilla", r["n_items"], r["sigma"]]["error"]["mean"] / r["error"]["mean"] for r in plain)
    yield "results.md", f"up to {ratio:.0f} times larger"
    for rate in ("2e-3", "1e-2"):
        of = {row["attention"]: error(row) for row in of_settings(results(f"noise-{rate}")["runs"])}
        yield "results.md", f"| {rate} | {' | '.join(of[name] for name in ('no-norm', 'differential', 'vanilla'))} |"
    for row in of_settings([*results("noise-narrow")["runs"], *results("noise-heads")["runs"]]):
        yield "results.md", f"| {row['width']} | {row['attention']} | {row['n_head']} | {error(row)} |"
    regression = of_settings(results("regression")["runs"])
    of = {(r["attention"], r["width"]): f"{r['error']['mean']:.3f}" for r in regression if r["n_head"] == 2}
    narrow, wide = ([of[name, width] for name in ("differential", "vanilla")] for width in (1, 48))
    yield "08-measured.md", f"| y of one channel {narrow[0]}, of 48 channels {wide[0]} | {narrow[1]} and {wide[1]} |"
    for row in regression:
        yield "results.md", f"| {row['width']} | {row['attention']} | {row['n_head']} | {error(row)} |"


def error(row):
    """Mean ± standard deviation of a setting's error."""
    return f"{row['error']['mean']:.3f} ± {row['error']['sd']:.3f}"
