"""lab/compare.py: one budget, several mechanisms, several seeds."""

import json
import math
import shutil
import signal
import statistics
from pathlib import Path

import pytest
import torch

import lab.compare
import lab.runs
from configurable import UsageError, parse, signature, usage
from conftest import ROOT
from lab.charts import draw
from lab.compare import compare, differences, loss_cells, paired, summarize
from lab.needles import needles
from lab.show import THE_FOUR
from lab.spread import spread, student
from model import ATTENTION
from plumbing.checkpoint import load

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}
SHORT = {"batch_size": 2, "max_iters": 20, "warmup_iters": 2, "eval_interval": 10, "eval_tokens": 500}
TWO = {"attentions": ("vanilla", "differential"), "seeds": (1, 2), "jobs": 2, "checkpoint_interval": 5}


@pytest.fixture(scope="module")
def compared(corpus, tmp_path_factory):
    """(folder, table) of two mechanisms, two seeds and 20 steps."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = compare(**TWO, **SHAPE, **SHORT, dataset=str(corpus))
    return folder / f"out/compare-{corpus.name}", found


@pytest.fixture
def again(compared, corpus):
    """Compare in a copy of that folder."""
    shutil.copytree(compared[0], "out/copy")
    return lambda **options: compare(**TWO | SHAPE | SHORT | {"dataset": str(corpus), "out_dir": "out/copy"} | options)


def mistake(**options):
    with pytest.raises(UsageError) as error:
        compare(**options)
    return str(error.value)


def test_the_table_says_what_the_runs_found(compared):
    folder, (vanilla, differential) = compared
    losses = {
        (attention, seed): load(folder / f"{attention}-0.001-{seed}")["best"]["val_loss"]
        for attention in TWO["attentions"]
        for seed in (1, 2)
    }
    for row in (vanilla, differential):
        mine = [losses[row["attention"], seed] for seed in (1, 2)]
        assert row["val_loss"]["mean"] == pytest.approx(statistics.mean(mine))
        assert row["val_loss"]["sd"] == pytest.approx(statistics.stdev(mine))
    pairs = [losses["differential", seed] - losses["vanilla", seed] for seed in (1, 2)]
    assert differential["difference"]["mean"] == pytest.approx(statistics.mean(pairs))
    assert differential["difference"]["half"] == pytest.approx(
        12.706 * statistics.stdev(pairs) / math.sqrt(2), rel=1e-3
    )
    assert "difference" not in vanilla and vanilla["time_ratio"] == {"n": 2, "mean": 1, "sd": 0, "half": 0}
    assert differential["time_ratio"]["mean"] > 0 and vanilla["best"] and differential["best"]
    assert differential["parameters"] == vanilla["parameters"] + 4 * 8 + 16  # λ's four vectors, the norm's gain
    assert differential["flops_per_token"] > vanilla["flops_per_token"]


def test_results_are_kept_with_where_they_come_from(compared, corpus):
    report = json.loads((compared[0] / "results.json").read_text())
    assert report["device"].startswith("cpu") and report["failed"] == {} and report["equal"] == "tokens"
    assert report["table"] == json.loads(json.dumps(compared[1])) and {"command", "commit"} <= report.keys()
    runs = report["runs"]
    assert [(r["seed"], r["attention"]) for r in runs] == [(s, a) for s in (1, 2) for a in TWO["attentions"]]
    for run in runs:
        assert run["steps"] == [0, 10, 20] and run["val_loss"] == min(run["val_losses"]) and run["max_iters"] == 20
        assert run["versions"]["torch"] == str(torch.__version__)
        assert run["data"] == json.loads((corpus / "meta.json").read_text())
        assert ("lam" in run) == (run["attention"] == "differential")
    assert {p.name for p in compared[0].glob("*.png")} == {"loss.png", "lam.png"}
    assert all(p.stat().st_size > 10_000 for p in compared[0].glob("*.png"))


def test_runs_of_other_options_are_not_taken_for_these(again):
    with pytest.raises(UsageError, match=r"vanilla-0.001-1 has another run \(max_iters 20 -> 30\)"):
        again(max_iters=30)


def test_a_stopped_comparison_says_how_to_continue(again, compared, monkeypatch, capsys):
    shutil.rmtree("out/copy/differential-0.001-2")
    monkeypatch.setattr(lab.compare, "run_all", lambda *args: ({}, signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        again()
    assert stopped.value.code == 143
    output = capsys.readouterr().out
    assert "stopped, 1 runs left: the same command continues" in output and "0.001" in output
    assert len(json.loads(Path("out/copy/results.json").read_text())["runs"]) == 3


def test_a_run_that_failed_is_reported_and_the_others_are_compared(again, monkeypatch, capsys):
    shutil.rmtree("out/copy/vanilla-0.001-1")
    why = "train.py: step 3: loss nan: stopped before the update"
    monkeypatch.setattr(lab.compare, "run_all", lambda *args: ({"vanilla-0.001-1": why}, 0))
    with pytest.raises(SystemExit) as ended:
        again()
    assert ended.value.code == 1 and f"vanilla-0.001-1 failed: {why}" in capsys.readouterr().out
    report = json.loads(Path("out/copy/results.json").read_text())
    assert report["failed"] == {"vanilla-0.001-1": why} and len(report["runs"]) == 3
    assert report["table"][0]["missing"] == [1] and report["table"][1]["difference"]["n"] == 1


def test_each_seed_can_begin_where_a_run_of_its_own_ended(compared, corpus):
    begin = f"{compared[0]}/vanilla-0.001-{{seed}}"
    options = SHAPE | SHORT | {"dataset": str(corpus), "out_dir": "tuned", "init_from": begin, "max_iters": 0}
    compare(attentions=("vanilla", "grown"), seeds=(1, 2), **options)
    runs = json.loads(Path("tuned/results.json").read_text())["runs"]
    losses = [load(compared[0] / f"vanilla-0.001-{seed}")["best"]["val_loss"] for seed in (1, 1, 2, 2)]
    assert [run["val_losses"] for run in runs] == [[pytest.approx(loss, rel=1e-6)] for loss in losses]
    with pytest.raises(UsageError, match=r"vanilla-0.001-1 has another run \(init_from .* -> scratch\)"):
        compare(attentions=("vanilla", "grown"), seeds=(1, 2), **options | {"init_from": "scratch"})


def test_done_runs_are_not_run_again(again, compared, monkeypatch):
    monkeypatch.setattr(lab.runs, "begin", None)
    assert again() == compared[1]
    assert len(again(seeds=(2,), attentions=("differential",))) == 1


def row(attention, seed, val_loss, rate=1e-3, **more):
    same = {"max_iters": 20, "seconds": 2.0, "parameters": 10, "flops_per_token": 100}
    return same | {"attention": attention, "learning_rate": rate, "seed": seed, "val_loss": val_loss} | more


def test_differences_are_of_pairs():
    rows = [
        row("vanilla", 1, 2.0),
        row("vanilla", 2, 3.0),
        row("softmax1", 1, 2.1),
        row("softmax1", 2, 3.3, seconds=4.0),
    ]
    vanilla, softmax1 = summarize([*rows, row("softmax1", 3, 9.0)], ("vanilla", "softmax1"))
    assert vanilla["val_loss"]["mean"] == 2.5 and vanilla["val_loss"]["sd"] == pytest.approx(0.5**0.5)
    assert softmax1["val_loss"]["n"] == 3 and softmax1["difference"]["n"] == 2  # seed 3 has no other half
    assert softmax1["difference"]["mean"] == pytest.approx(0.2)
    assert softmax1["difference"]["half"] == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t of one degree of freedom
    assert softmax1["pairs"] == {1: pytest.approx(0.1), 2: pytest.approx(0.3)} and softmax1["time_ratio"]["mean"] == 1.5
    assert vanilla["missing"] == [3] and softmax1["missing"] == []  # and so vanilla has no best rate
    assert loss_cells(softmax1)["paired difference, 95 % interval"] == "+0.2000 ± 1.2706"
    assert loss_cells(vanilla)["best val loss, mean ± sd"] == "2.5000 ± 0.7071 (without seed 3)"


def test_any_two_mechanisms_of_results_json_are_paired(compared):
    runs = json.loads((compared[0] / "results.json").read_text())["runs"]
    assert paired(runs, "differential", "vanilla") == compared[1][1]["difference"]
    assert differences(runs, "differential", "vanilla") == compared[1][1]["pairs"]
    rows = [
        row(name, seed, loss) for name, losses in (("a", (1, 2, 3)), ("b", (1, 4))) for seed, loss in enumerate(losses)
    ]
    assert differences(rows, "b", "a") == {0: 0, 1: 2} and differences(rows, "a", "b") == {0: 0, 1: -2}
    assert paired(rows, "b", "a") == spread([0, 2]) and paired(rows, "a", "a") == spread([0, 0, 0])
    for name, base in (("c", "a"), ("a", "c")):
        with pytest.raises(ValueError, match=f"{name} and {base} have no seed in common"):
            paired(rows, name, base)


def test_of_several_rates_a_pair_must_be_chosen():
    rows = [row("a", 1, 2.0), row("a", 1, 1.0, 1e-2), row("b", 1, 3.0)]
    with pytest.raises(ValueError, match="a has several learning rates: choose one"):
        paired(rows, "b", "a")


def test_of_several_learning_rates_the_best_of_each_is_compared_with_the_best_of_the_first():
    rows = [
        row("vanilla", 1, 2.0),
        row("vanilla", 1, 1.0, 1e-2),
        row("softmax1", 1, 1.5),
        row("softmax1", 1, 1.7, 1e-2),
    ]
    found = {(r["attention"], r["learning_rate"]): r for r in summarize(rows, ("vanilla", "softmax1"))}
    assert [key for key, r in found.items() if r["best"]] == [("vanilla", 1e-2), ("softmax1", 1e-3)]
    assert found["softmax1", 1e-3]["difference"]["mean"] == 0.5 and found["softmax1", 1e-3]["to_learning_rate"] == 1e-2
    assert found["softmax1", 1e-2]["difference"]["mean"] == pytest.approx(0.7)  # not its best: rate against rate
    assert loss_cells(found["softmax1", 1e-3], several_rates=True)["learning rate"] == "0.001, best"
    rows[2]["val_loss"] = 2.5  # now its best is the faster one, and the slower is compared with vanilla's slower
    found = {(r["attention"], r["learning_rate"]): r for r in summarize(rows, ("vanilla", "softmax1"))}
    assert [found["softmax1", rate]["difference"]["mean"] for rate in (1e-3, 1e-2)] == pytest.approx([0.5, 0.7])


def test_a_rate_that_killed_a_seed_is_nobodys_best():
    rows = [
        row("vanilla", s, loss, rate)
        for rate, losses in ((1e-3, (2, 2)), (1e-2, (1,)))
        for s, loss in enumerate(losses)
    ]
    slow, fast = summarize(rows, ("vanilla",))
    assert slow["best"] and not fast["best"] and fast["missing"] == [1]


def test_one_seed_has_no_interval():
    assert spread([2.0]) == {"n": 1, "mean": 2.0}
    _, softmax1 = summarize([row("vanilla", 1, 2.0), row("softmax1", 1, 2.5)], ("vanilla", "softmax1"))
    assert loss_cells(softmax1)["paired difference, 95 % interval"] == "+0.5000 (one seed: no interval)"
    assert loss_cells(softmax1)["best val loss, mean ± sd"] == "2.5000"
    assert loss_cells(softmax1)["learning rate"] == "0.001"  # of one rate none is the best


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (1000, 1.9623)])
def test_students_t_is_that_of_the_tables(freedom, t):
    assert student(freedom) == pytest.approx(t, abs=1e-4)


def test_equal_time_gives_a_slower_mechanism_fewer_steps(monkeypatch):
    def training_steps(plan, shape, T, tokens):
        assert (plan.attentions, T, tokens) == (TWO["attentions"], 16, 32)
        return [
            {"attention": "vanilla", "milliseconds": [9, 10, 11]},
            {"attention": "differential", "milliseconds": [1, 16, 20]},
        ]

    settings = lab.compare.with_defaults({**SHAPE, **SHORT, "batch_size": 2, "attention": "vanilla"})

    def ask(equal, jobs=2):
        return lab.compare.steps_of(TWO["attentions"], equal, settings, torch.device("cpu"), jobs, Path())

    monkeypatch.setattr(lab.compare, "training_steps", training_steps)
    assert ask("tokens") == {"vanilla": 20, "differential": 20} and not Path("steps.json").exists()
    assert ask("time") == {"vanilla": 20, "differential": 12}  # 20 · 10 / 16
    monkeypatch.setattr(lab.compare, "training_steps", None)  # measured once: gone on with, runs keep their steps
    assert ask("time") == {"vanilla": 20, "differential": 12}
    with pytest.raises(UsageError, match=r"steps.json is of other mechanisms, jobs or options"):
        ask("time", jobs=1)
    measured = json.loads(Path("steps.json").read_text())
    for wrong in ("x", None, -5, 0, 2.5, True):
        Path("steps.json").write_text(json.dumps(measured | {"steps": {"vanilla": 20, "differential": wrong}}))
        with pytest.raises(UsageError, match=r"steps\.json is of other"):
            ask("time")
    Path("steps.json").unlink()
    failed = [
        {"attention": "vanilla", "milliseconds": [9, 10, 11]},
        {"attention": "softmax1", "failed": "out of memory"},
    ]
    monkeypatch.setattr(lab.compare, "training_steps", lambda *args: failed)
    with pytest.raises(UsageError, match=r"equal=time: a step of softmax1 cannot be measured \(out of memory\)"):
        ask("time")


def test_every_figure_is_drawn():
    rows = [
        row(a, seed, 1.0 + rate, rate, steps=[0, 10, 20], val_losses=[5.0, 3.0, 1.0 + rate], **more)
        for a, more in (
            ("vanilla", {}),
            ("differential", {"lam": [[[0.2], [0.4]]] * 3}),
            ("temperature", {"g": [[[9.0, 8.0]] * 2] * 3}),
            ("sink", {"b": [[[0.1, -0.2]] * 2] * 3}),
        )
        for seed in (1, 2)
        for rate in (1e-3, 1e-2)
    ]
    draw(Path(), "a title", rows, summarize(rows, ("vanilla", "differential", "temperature", "sink")))
    assert {p.name for p in Path().glob("*.png")} == {"loss.png", "lam.png", "g.png", "b.png", "rates.png"}
    assert all(p.stat().st_size > 10_000 for p in Path().glob("*.png"))


def test_needles_are_counted_over_seeds(capsys):
    needles(n_needles=2, n_queries=1, length=32, n_contexts=20, n_val_contexts=6)
    shape = {**SHAPE, "block_size": 32}
    one, two = compare(
        dataset="needles", attentions=("vanilla", "differential"), seeds=(1, 2), **shape, **SHORT | {"max_iters": 1}
    )
    runs = json.loads(Path("out/compare-needles/results.json").read_text())["runs"]
    mine = [run["needles"]["by_n"][1]["exact"] for run in runs if run["attention"] == "differential"]
    assert len(one["exact"]) == 2 and two["exact"][1] == spread(mine)
    for row in (one, two):  # two heads, and one
        assert sum(share["mean"] for share in row["looked_at"].values()) == pytest.approx(1)
    said = capsys.readouterr().out
    assert "N = 2" in said and "on other needles" in said and Path("out/compare-needles/needles.png").exists()


def test_accuracy_at_the_end_and_when_it_was_first_99_percent():
    runs = {("vanilla", 1): [0.0, 0.2, 0.3], ("vanilla", 2): [0.0, 0.1, 0.5], ("softmax1", 1): [0.1, 0.995, 0.98]}
    runs |= {("softmax1", 2): [0.0, 0.9899, 1.0]}
    more = {"steps": [0, 50, 100], "val_losses": [3.0, 2.0, 1.0]}
    rows = [row(*key, 1.0, accuracies=accuracies, **more) for key, accuracies in runs.items()]
    vanilla, softmax1 = summary = summarize(rows, ("vanilla", "softmax1"))
    assert vanilla["accuracy"]["mean"] == pytest.approx(0.4) and vanilla["solved_at"] == [None, None]
    assert softmax1["accuracy"]["mean"] == pytest.approx(0.99) and softmax1["solved_at"] == [50, 100]
    cells = loss_cells(softmax1)
    assert cells["99 % at step, per seed"] == "50 100" and cells["accuracy at the end, mean ± sd"] == "0.99 ± 0.01"
    assert loss_cells(vanilla)["99 % at step, per seed"] == "– –"
    draw(Path(), "a title", rows, summary)
    assert Path("accuracy.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "vanilla"}, "attention: is chosen for every run; give attentions"),
        ({"seed": 3}, "seed: is chosen for every run; give seeds"),
        ({"init_from": "resume"}, "init_from=resume: the same command continues by itself; leave it out"),
        ({"overwrite": True}, "overwrite: is chosen for every run; leave it out"),
        (
            {"attentions": ("vanila",)},
            f"attentions=vanila: must be one of {', '.join([*ATTENTION][:8])}, … (did you mean vanilla?)",
        ),
        ({"seeds": (1, 2, 1)}, "seeds=1,2,1: must not name one twice"),
        ({"learning_rates": (0.1, 0.1)}, "learning_rates=0.1,0.1: must not name one twice"),
        ({"jobs": 0}, "jobs=0: must be at least 1"),
        ({"n_head": 3, "n_embd": 12}, "n_head=3: must be a multiple of 2, the maps per differential head"),
        (
            {"equal": "time", "gradient_accumulation_steps": 2},
            "equal=time measures a step of one micro-batch: gradient_accumulation_steps must be 1",
        ),
        (
            {"learning_rates": (1e-3, -1.0), "dataset": "CORPUS"},
            "learning_rates=-1.0: must be at least 0 and finite",
        ),
        ({"dataset": "nowhere"}, "no dataset data/nowhere: there is none yet; python prepare.py makes one"),
    ],
)
def test_mistakes_are_explained(options, message, corpus):
    options = {name: str(corpus) if value == "CORPUS" else value for name, value in options.items()}
    assert mistake(**options).removesuffix("; none: only --learning_rate") == message
    assert not list(Path().rglob("ckpt.pt"))  # nothing was trained before the mistake was found


def test_damaged_needles_are_a_mistake_before_any_run(monkeypatch):
    folder = needles(n_needles=2, n_queries=1, length=32, n_contexts=20, n_val_contexts=6)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"needles": meta["needles"] | {"n_queries": 0}}))
    monkeypatch.setattr(lab.compare, "run_all", None)
    message = mistake(dataset="needles", **SHAPE | {"block_size": 32})
    assert message == "needles: needles of which no context can be made"


def test_without_a_word_it_compares_the_four_and_it_knows_the_words_of_ideas():
    assert signature(compare)[0]["attentions"].default == THE_FOUR
    assert mistake(attentions=("no-norm", "one-base")).endswith("(did you mean one-based?)")


def test_every_option_has_a_line_of_help():
    assert all(signature(compare)[0][name].comment for name in compare.__kwdefaults__)


def test_it_is_a_program():
    assert (ROOT / "lab/compare.py").read_text().endswith('program="python -m lab.compare")\n')


def test_it_takes_the_options_of_train_and_its_own():
    Path("small.toml").write_text("n_layer = 1\nseeds = [3, 4]\n")
    assert parse(compare, ["small.toml", "--max_iters=7", "--learning_rates=1e-3,2e-3"]) == (
        [],
        {"n_layer": 1, "seeds": (3, 4), "max_iters": 7, "learning_rates": (1e-3, 2e-3)},
    )
    with pytest.raises(UsageError, match=r"there is no option learning_rat \(did you mean learning_rate"):
        parse(compare, ["--learning_rat=1"])
    told = usage(compare, "python -m lab.compare")
    assert told.index("--seeds=1,2,3,4") < told.index("--n_layer=4") and told.count("--out_dir=") == 1
    assert "folder of the runs, results.json" in told


def test_a_second_comparison_in_one_folder_is_refused(again, monkeypatch):
    refused = []

    def meanwhile(*args):
        with pytest.raises(UsageError) as error:
            again()
        refused.append(str(error.value))
        return {}, 0

    monkeypatch.setattr(lab.compare, "run_all", meanwhile)
    again()
    assert refused == ["another process is comparing in out/copy: wait, or choose another --out_dir"]
