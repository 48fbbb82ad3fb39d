"""lab/compare.py: one budget, several mechanisms, several seeds; and lab/show.py, how results are shown."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lab.compare
import lab.report
from configurable import UsageError, bind, parse
from conftest import ROOT, mistake
from lab.compare import DEFAULTS, cells, compare, draw, is_done, is_free, name_of, option, ranked, summarize
from lab.show import THE_FOUR, look, shown, student, table
from model import ATTENTION
from plumbing.checkpoint import load
from plumbing.run import Run, locked, read_metrics
from train import train

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "batch_size": 2}
SMALL |= {"max_iters": 20, "warmup_iters": 2, "eval_interval": 10, "eval_tokens": 500}
TWO = {"attentions": ("vanilla", "differential"), "seeds": (1, 2)}
TUNE = {"learning_rates": (1e-4, 1e-2, 1e30), "n_heads": (2, 4), "tuning_seeds": (11, 12), "n_best": 2}


class InProcess:
    """A run as lab.compare's `begin` starts it, but done at once, in this process, and without its figure."""

    def __init__(self, folder, options, jobs):
        (shape,), options = bind(train, [], options | {"out_dir": str(folder)})
        self.returncode = 0
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Run, "plot", lambda run, title: None)
                train(shape, **options)
        except UsageError as error:
            folder.with_name(f"{folder.name}.log").write_text(f"step 0\ntrain.py: {error}\n")
            self.returncode = 2

    def poll(self):
        return self.returncode

    def kill(self):
        pass


def lines(folder):
    return [json.loads(line) for line in Path(folder, "runs.jsonl").read_text().splitlines()]


def losses(folder):
    return [(row["step"], row.get("val_loss"), row.get("train_loss")) for row in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def compared(corpus, tmp_path_factory):
    """(folder, rows) of two mechanisms and two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(lab.compare, "begin", InProcess)
        rows = compare(**TWO, **SMALL, dataset=str(corpus))
    return folder / f"out/compare-{corpus.name}", rows


@pytest.fixture
def go(corpus, monkeypatch):
    monkeypatch.setattr(lab.compare, "begin", InProcess)
    monkeypatch.setattr(lab.compare.time, "sleep", lambda seconds: None)
    return lambda **options: compare(**TWO | SMALL | {"dataset": str(corpus), "out_dir": "out/two"} | options)


@pytest.fixture
def again(go, compared):
    """Compare in a copy of the folder of `compared`."""
    shutil.copytree(compared[0], "out/two")
    return go


# ---------------------------------------------------------------------------- what is found


def test_a_line_of_runs_jsonl_has_what_a_run_found(compared, corpus):
    found = lines(compared[0])
    assert [(one["seed"], one["attention"]) for one in found] == [(s, a) for s in (1, 2) for a in TWO["attentions"]]
    for one in found:
        run = compared[0] / f"{one['attention']}-{one['seed']}"
        rows = [row for row in read_metrics(run / "metrics.jsonl") if "val_loss" in row]
        losses = [pytest.approx(row["val_loss"], abs=1e-6) for row in rows]
        assert one["evaluations"] == {"step": [0, 10, 20], "val_loss": losses} and one["final"] == losses[-1]
        assert one["best"] == pytest.approx(load(run)["best"]["val_loss"], abs=1e-6)
        assert one["options"] == {k: v for k, v in {**SMALL, "dataset": str(corpus)}.items() if v != DEFAULTS[k]}
        assert (one["experiment"], one["purpose"]) == (f"compare-{corpus.name}", "comparison")
    assert "lam" not in found[0] and found[3]["lam"] == [pytest.approx(rows[-1]["lam"][0][0], abs=1e-4)]
    assert found[1]["parameters"] == found[0]["parameters"] + 4 * 8 + 16  # λ's four vectors, the norm's gain
    assert compared[1] == summarize(found, TWO["attentions"])
    assert {path.name for path in compared[0].glob("*.png")} == {"loss.png", "lam.png"}


def test_lab_report_reads_what_was_found(compared):
    records = lab.report.load(compared[0])
    assert summarize(records, TWO["attentions"]) == compared[1] and all(one["max_iters"] == 20 for one in records)


def one(attention, seed, best, seconds=2.0, accuracies=(), **options):
    evaluations = {"step": [0, 50, 100], "val_loss": [best] * 3} | ({"accuracy": accuracies} if accuracies else {})
    same = {"parameters": 1000, "evaluations": evaluations, "seconds": seconds, "options": options}
    return same | {"attention": attention, "seed": seed, "best": best}


def test_only_runs_of_the_same_seed_are_paired():
    runs = [one("vanilla", 1, 2.0), one("vanilla", 2, 3.0), one("softmax1", 1, 2.1), one("softmax1", 2, 3.3, 4.0)]
    vanilla, softmax1 = summarize([*runs, one("softmax1", 3, 9.0)], ("vanilla", "softmax1"))
    assert vanilla["loss"]["mean"] == 2.5 and vanilla["missing"] == [3] and softmax1["missing"] == []
    assert softmax1["loss"]["n"] == 3 and softmax1["difference"]["n"] == 2  # seed 3 has no other half
    assert softmax1["difference"]["mean"] == pytest.approx(0.2) and softmax1["time"]["mean"] == 1.5
    assert cells(vanilla, {})["best val loss, mean ± sd"] == "2.5000 ± 0.7071 (without seed 3)"
    assert cells(softmax1, {})["difference, 95 % interval"] == "+0.2000 ± 1.2706"  # t of one degree of freedom: 12.706
    _, alone = summarize([one("vanilla", 1, 2.0), one("softmax1", 1, 2.5)], ("vanilla", "softmax1"))
    assert cells(alone, {})["difference, 95 % interval"] == "+0.5000 (one seed)"


def test_a_task_has_its_accuracy_at_the_end_and_when_it_was_solved():
    runs = [one("vanilla", seed, 1.0, accuracies=a) for seed, a in ((1, (0.0, 0.2, 0.3)), (2, (0.0, 0.1, 0.5)))]
    runs += [one("softmax1", seed, 1.0, accuracies=a) for seed, a in ((1, (0.1, 0.995, 0.98)), (2, (0, 0.9899, 1.0)))]
    vanilla, softmax1 = summarize(runs, ("vanilla", "softmax1"))
    assert vanilla["accuracy"]["mean"] == pytest.approx(0.4) and vanilla["solved_at"] == [None, None]
    assert softmax1["accuracy"]["mean"] == pytest.approx(0.99) and softmax1["solved_at"] == [50, 100]
    assert cells(vanilla, {})["step with 99 %, per seed"] == "– –"
    draw(Path(), "a title", dict(enumerate(runs)), ("vanilla", "softmax1"))
    assert Path("accuracy.png").stat().st_size > 10_000


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (1000, 1.9623)])
def test_students_t_is_that_of_the_tables(freedom, t):
    assert student(freedom) == pytest.approx(t, abs=1e-4)


# ---------------------------------------------------------------------------- tuning


def test_every_mechanism_gets_the_same_tuning_and_fresh_seeds_its_best_setting(go, capsys):
    rows = go(**TUNE)
    found = lines("out/two")
    for row in rows:
        mine = [run for run in found if run["attention"] == row["attention"]]
        tried = {}
        for run in mine:
            if run["purpose"] == "tuning":
                setting = option(run, "learning_rate"), option(run, "n_head")
                tried.setdefault(setting, {})[run["seed"]] = run["best"]
        assert len(tried) == 4 and all(11 in by_seed for by_seed in tried.values())  # 1e30 diverges
        candidates = sorted(tried, key=lambda setting: tried[setting][11])[:2]
        assert {setting for setting in tried if 12 in tried[setting]} == {*candidates}
        best = min(candidates, key=lambda setting: sum(tried[setting].values()))
        fresh = [run for run in mine if run["purpose"] == "comparison"]
        assert [run["seed"] for run in fresh] == [1, 2] and best[0] == 1e-2
        assert all((option(run, "learning_rate"), option(run, "n_head")) == best for run in fresh)
    said = capsys.readouterr().out
    assert "the best of 6 settings per mechanism, tuned with seeds 11,12" in said
    assert re.search(r"\| vanilla +\| 0.01 +\| [24] +\| n_head +\|", said)  # on the grid's edge


def test_the_lowest_mean_over_all_tuning_seeds_is_the_best():
    grid = {"learning_rate": (1, 2, 3)}
    runs = [one("vanilla", 11, loss, learning_rate=rate) for rate, loss in ((1, 3.0), (2, 1.0), (3, 2.0))]
    assert ranked(runs, "vanilla", grid) == [{"learning_rate": 2}, {"learning_rate": 3}, {"learning_rate": 1}]
    runs += [one("vanilla", 12, loss, learning_rate=rate) for rate, loss in ((2, 3.0), (3, 1.5))]
    assert ranked(runs, "vanilla", grid, 2) == [{"learning_rate": 3}, {"learning_rate": 2}]  # 1 has one seed
    assert mistake(ranked, runs, "softmax1", grid) == "softmax1: no setting is left, a run of each has failed"


# ---------------------------------------------------------------------------- runs that stop, fail, or are others


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_the_same_command_continues_after_an_interruption(corpus):
    """With no-norm, one of whose parameters no gradient reaches: the optimizer has no state for it."""
    options = SMALL | {"max_iters": 120, "eval_interval": 120, "dataset": str(corpus)}
    command = [sys.executable, "-m", "lab.compare", str(ROOT / "config/cpu.toml")]
    command += [f"--{name}={value}" for name, value in options.items()]
    command += ["--attentions=no-norm", "--seeds=2", "--out_dir=out/stopped"]
    run, environment = Path("out/stopped/no-norm-2"), os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as program:
        while lab.compare.steps_done(run) < 20:
            assert program.poll() is None
            time.sleep(0.02)
        program.send_signal(signal.SIGTERM)
        assert "stopped, 1 of 1 runs are left: the same command" in program.stdout.read()
    assert program.returncode == 143 and 20 < load(run / "ckpt.pt")["step"] < 120
    _, again = parse(compare, command[3:])
    assert compare(**again)[0]["loss"]["n"] == 1
    (shape,), alone = bind(train, [], {k: v for k, v in again.items() if k not in ("attentions", "seeds")})
    train(dataclasses.replace(shape, attention="no-norm"), **alone | {"seed": 2, "out_dir": "out/alone"})
    assert losses(run) == losses(Path("out/alone"))
    assert "step 0: val" not in run.with_name("no-norm-2.log").read_text()  # it did not begin again


def test_a_run_that_outlived_a_killed_comparison_is_waited_for():
    assert is_free(Path("out/a"))
    with locked(Path("out/a/.lock"), "training"):
        assert not is_free(Path("out/a"))
    assert is_free(Path("out/a"))


def test_complete_runs_are_kept(again, compared, monkeypatch):
    monkeypatch.setattr(lab.compare, "begin", None)
    assert again() == compared[1]


def test_a_folder_with_other_runs_is_refused(again, corpus, monkeypatch):
    other = "out/two/vanilla-1 has another run"
    assert mistake(again, max_iters=30) == f"{other} (max_iters 20 -> 30): choose another --out_dir"
    copy = Path(shutil.copytree(corpus, "data/copy"))
    assert mistake(again, dataset="copy").startswith(f"{other} (dataset {corpus} -> copy)")
    meta = json.loads((copy / "meta.json").read_text())
    options = load("out/two/vanilla-1")["options"]
    assert is_done(Path("out/two/vanilla-1"), options, meta)
    meta["val"]["sha256"] = "0" * 64
    assert mistake(is_done, Path("out/two/vanilla-1"), options, meta).startswith(other)
    monkeypatch.setattr(lab.compare, "provenance", lambda attention: {"code": "of tomorrow"})
    assert mistake(again) == f"{other} (other code): choose another --out_dir"


def test_a_run_that_fails_is_named_and_the_others_go_on(go, monkeypatch, capsys):
    def begin(folder, options, jobs):
        if folder.name != "vanilla-1":
            diverges = {"learning_rate": 1e30} if folder.name == "vanilla-2" else {}
            return InProcess(folder, options | diverges, jobs)
        folder.with_name("vanilla-1.log").write_text("starting\nstep 0\n")
        return subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])

    monkeypatch.setattr(lab.compare, "begin", begin)
    with pytest.raises(SystemExit) as ended:
        go(seeds=(1, 2, 3))
    said = capsys.readouterr().out
    assert ended.value.code == 1 and len(lines("out/two")) == 4
    assert "vanilla-1 failed, and is left out: killed by signal 9, after: step 0 (out/two/vanilla-1.log)" in said
    assert "vanilla-2 failed, and is left out: train.py: step " in said and "(without seed 1,2)" in said


def test_without_runs_of_the_first_mechanism_no_pairs_are_drawn(compared, monkeypatch):
    panels = {}
    monkeypatch.setattr(lab.compare, "draw_figure", lambda path, title, drawn: panels.update({path.name: len(drawn)}))
    folder = compared[0]
    records = {folder / f"{run['attention']}-{run['seed']}": run for run in lines(folder)}
    for attentions, n in ((("vanilla", "differential"), 2), (("softmax1", "vanilla", "differential"), 1)):
        lab.compare.draw(Path("out"), "", records, attentions)
        assert panels["loss.png"] == n


def test_numbers_are_written_before_figures_are_drawn(again, monkeypatch, capsys):
    Path("out/two/runs.jsonl").unlink()
    monkeypatch.setattr(lab.compare, "draw", None)
    with pytest.raises(TypeError):
        again()
    assert len(lines("out/two")) == 4 and "differential" in capsys.readouterr().out


def test_each_seed_can_begin_where_a_run_of_its_own_ended():
    options = lab.compare.options_of_run({"init_from": "out/a-{seed}"}, "softmax1", {"n_head": 2}, 7)
    assert options["init_from"] == "out/a-7" and options["seed"] == 7 and options["n_head"] == 2
    assert name_of("softmax1", {"n_head": 2}, 7) == "softmax1-n_head=2-7"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "vanilla"}, "attention: is chosen for every run; give attentions"),
        ({"init_from": "resume"}, "init_from=resume: the same command continues by itself; leave it out"),
        ({"attentions": ("vanila",)}, "attentions=vanila: must be one of"),
        ({"seeds": (1, 2, 1)}, "seeds=1,2,1: must name at least one, and none twice"),
        ({"seeds": (1, 12), **TUNE}, "seeds=1,12: 12 is also one of tuning_seeds, and would not be fresh"),
        ({"n_heads": (2, 3), "n_embd": 12}, "n_head=3: must be a multiple of 2, the maps per differential head"),
        ({"learning_rates": (1e-3, -1.0)}, "learning_rate=-1.0: must be"),
        ({"dataset": "nowhere"}, "no dataset data/nowhere"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(go, options, message):
    assert mistake(go, **options).startswith(message)
    assert not list(Path().rglob("ckpt.pt"))


# ---------------------------------------------------------------------------- how results are shown


def test_a_table_has_a_column_for_every_key():
    text = table([{"T": 64, "ms": [1.0, 2.0, 3.0]}, {"T": 128, "failed": "out of memory"}])
    assert text.split("\n") == [
        "| T   | ms      | failed        |",
        "| --- | ------- | ------------- |",
        "| 64  | 2 (1-3) |               |",
        "| 128 |         | out of memory |",
    ]
    assert [shown(value) for value in (0.12345, 12.345, 123456.7, 7)] == ["0.123", "12.3", "123,457", "7"]


def test_the_four_look_different_and_like_no_other():
    for key in ("color", "marker"):
        styles = {look(name)[key] for name in THE_FOUR}
        assert len(styles) == 4 and not styles & {look(name)[key] for name in ATTENTION.keys() - {*THE_FOUR}}
