"""What the pages say of the tasks, computed from docs/results: (page, text) of each number."""

import numpy as np

from docs.kept import accuracy, difference_of, interval, loss_of, results, signed, solved_at
from lab.compare import mean_and_sd
from lab.one_layer import best_lam, least_error
from lab.one_layer import summary as of_settings
from lab.show import THE_FOUR
from lab.spread import spread


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
    later = [f"{row['accuracy']['mean']:.2f}" for row in results("missing-long")["table"][:3]]
    yield "the README", f"each tuned for the task, 1600 steps | 1.00, from step {span} on | 1.00, from step 150 on |"
    yield "the README", "after 1600 steps they have {}, {} and {}".format(*later)
    temperature = results("missing-tuned-long")["table"][2]["accuracy"]["mean"]
    yield "the README", f"temperature comes to {temperature:.2f}"
    yield "00-a-task.md", f"vanilla gets there, after {span}"
    n = {a: sum(by["101"] < 0.1 for name, by in tuned["tuning"].items() if name.startswith(f"{a}-")) for a in THE_FOUR}
    assert [*n.values()][:3] == [0, 0, 0]
    yield (
        "results.md",
        f"A loss below 0.1 differential has in {n['differential']} of its {len(tuned['tuning']) // 4} settings",
    )
    for setting in tuned["chosen"].values():
        name, init_std, rate, n_head = setting.rsplit("-", 3)
        yield "results.md", f"| {name} | {init_std} | {rate} | {n_head} |"
    rows = [row for name in ("missing-controls", "missing-narrow") for row in results(name)["table"]]
    controls = {row["attention"]: accuracy(row) for row in rows}
    for name in ("tied-0.9", "tied-narrow", "tied", "fixed-lambda", "add-only", "wide-values", "normed-vanilla"):
        yield "00-a-task.md", f"(`{name}`) | {controls[name]} |"


def of_the_answer():
    """How the untuned models answer which one is missing: maps, interventions, other numbers of items."""
    answering = results("analysis-missing-seeds")["checkpoints"][0]["heads"][0]  # seed 1, layer 0
    assert 0.64 < answering["at_most_0.01"] < 0.69 and answering["zero_by_itself_0.01"] < 0.005
    yield "04-near-zero.md", "two thirds of the weights of the difference are within ±0.01"
    looked = results("analysis-missing-seeds")["checkpoints"]
    others = [max(entry["heads"], key=lambda h: entry["learned"]["lam"]["now"][h["layer"]]) for entry in looked[1:]]
    cosines = sorted((f"{head['A1_A2_cosine']:.2f}" for head in (answering, *others)), reverse=True)
    yield "11-discussion.md", "in the layer that solves the task {}, {}, {}, {} in four seeds".format(*cosines)
    near = sorted((round(100 * head["at_most_0.01"]) for head in others), reverse=True)
    yield (
        "04-near-zero.md",
        "in the other three seeds that we looked at, {}, {} and {} % are within ±0.01".format(*near),
    )
    bits = [row["loss_change"] for entry in looked for row in entry["interventions"] if "4 bits" in row["what"]]
    yield "04-near-zero.md", f"4 bits raise the loss by {min(bits):.1f} to {max(bits):.1f} in the four models"
    solved = results("solved")["checkpoints"]
    first, second = (next(r for r in solved[0]["answering"] if r["map"] == name) for name in ("A₁", "A₂"))  # of layer 0
    shares = [f"{row[where]:.2f}" for row in (first, second) for where in ("first", "second")]
    yield "results.md", "$A_1$ has {} of its weight on the first and {} on the second, $A_2$ {} and {}.".format(*shares)
    nine, fifteen = (np.mean([entry["by_n_items"][n] for entry in solved]) for n in ("9", "15"))
    yield "00-a-task.md", f"It does, with {nine:.2f} and {fifteen:.2f}"
    for page in ("00-a-task.md", "the README"):
        yield page, f"from 1.00 to {np.mean([entry['interventions']['negative by 0'] for entry in solved]):.2f}"
    as_much = np.mean([entry["interventions"]["as much positive by 0"] for entry in solved])
    yield "00-a-task.md", f"Take away as much positive weight instead, and it falls to {as_much:.2f}"
    always = min(entry["orders"]["always"] for entry in solved)
    yield "results.md", f"is right in {always:.2f} of the contexts in every one"
    for kind in ("by_n_items", "interventions"):
        for key in solved[0][kind].keys() - {name for name in solved[0][kind] if "alone" in name}:
            some = [entry[kind][key] for entry in solved]
            yield "results.md", f"| {key} | {np.mean(some):.2f} ± {np.std(some, ddof=1):.2f} |"


def of_solved():
    """Which one is missing? Other numbers of items, of the models that were tuned."""
    tuned = {name: [] for name in THE_FOUR}
    for entry in results("solved-tuned")["checkpoints"]:
        tuned[entry["attention"]].append(entry["by_n_items"])

    def right(name, n):
        return mean_and_sd(spread([of[n] for of in tuned[name]]))

    bars = [
        row["bar"]
        for entry in results("solved-tuned")["checkpoints"]
        for row in entry["answering"]
        if entry["attention"] in ("vanilla", "softmax1") and row["layer"] == 1
    ]
    yield "results.md", f"in {sum(bar >= 0.98 for bar in bars)} of {len(bars)} heads with a weight of 0.98 and more"
    for n in tuned["vanilla"][0]:
        yield "results.md", f"| {n} | {' | '.join(right(name, n) for name in THE_FOUR)} |"
    for name in ("vanilla", "differential"):
        yield "00-a-task.md", f"{right(name, '9')} and {right(name, '15')} of the lists"


def of_course():
    """Maps over training, on the task and on text."""

    def mean(name, step, attention="differential", of="course-missing"):
        rows = results(of)["rows"]
        return np.mean([row[name] for row in rows if (row["attention"], row["step"]) == (attention, step)])

    def at_end(name, attention="differential"):
        return mean(name, 1200, attention, "course-text")

    lam = [f"{mean('lam', step):.2f}" for step in (0, 50, 100)]
    yield "04-near-zero.md", f"First λ rises, from {lam[0]} to {lam[1]} in 50 steps"
    yield "04-near-zero.md", f"λ reaches {lam[2]}, and"
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
        yield page, interval(of, 3)
    for label, name in (("$A_1$ of differential", "differential"), ("vanilla", "vanilla")):
        for what, kept in (("weights below 0.001", "small_share"), ("of those of the column before", "small_stays")):
            cells = [f"{mean(kept, step, name, 'course-text'):.2f}" for step in (100, 200, 400, 800, 1200)]
            yield "04-near-zero.md", f"| {label}: {what} | {' | '.join(cells)} |"
    stays = mean("small_stays", 1200, of="course-text")
    yield "04-near-zero.md", f"below 0.001 at step 800, {100 * stays:.0f} in a hundred still are at step 1200"
    start = mean("negative_share", 0, of="course-text")
    yield "03-subtraction.md", f"{start:.2f} of the weights begin below zero"


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
    yield "08-measured.md", f"| y of one channel {narrow[0]}, of 48 channels {wide[0]}; with"
    yield "08-measured.md", f"are behind vanilla | {narrow[1]} and {wide[1]} |"
    for row in of_settings(results("regression-positions")["runs"]):
        order = f"{100 * row['order']['mean']:.2f} %"
        yield "results.md", f"| {row['width']} | {row['attention']} | {error(row)} | {order} |"
    for row in regression:
        yield "results.md", f"| {row['width']} | {row['attention']} | {row['n_head']} | {error(row)} |"


def error(row):
    """Mean ± standard deviation of a setting's error."""
    return f"{row['error']['mean']:.3f} ± {row['error']['sd']:.3f}"


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
    lam = [entry["learned"]["lam"]["now"][0] for entry in inside]
    yield "results.md", f"in every seed ({', '.join(signed(x, 2) for x in lam)})"
    yield "03-subtraction.md", f"(λ from {signed(max(lam), 2)} to {signed(min(lam), 2)},"
