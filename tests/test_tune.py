"""lab/tune.py: the same budget for every mechanism; what was tuned on is never what is compared."""

import json
import statistics
from pathlib import Path

import pytest

import lab.runs
import lab.tune
from configurable import UsageError
from conftest import Done, mistake
from lab.tune import best_of, name_of, outcomes, tune

SHAPE = {"n_layer": 1, "n_embd": 16, "block_size": 16}
SHORT = {"batch_size": 2, "max_iters": 4, "warmup_iters": 2, "eval_interval": 2, "eval_tokens": 200}
TUNE = {"attentions": ("vanilla", "differential"), "init_stds": (0.02, 0.2), "n_heads": (2, 4), "n_best": 2}
TUNE |= {"tuning_seeds": (11, 12), "seeds": (1, 2)}


@pytest.fixture
def go(corpus, monkeypatch):
    monkeypatch.setattr(lab.runs, "begin", Done)
    return lambda **options: tune(**TUNE | SHAPE | SHORT | {"dataset": str(corpus), "out_dir": "out/tuned"} | options)


def test_each_mechanism_gets_the_same_budget_and_is_compared_at_its_best(go, capsys):
    table = go()
    report = json.loads(Path("out/tuned/results.json").read_text())
    for attention in TUNE["attentions"]:
        tried = {name: losses for name, losses in report["tuning"].items() if name.startswith(attention)}
        assert len(tried) == 4 and all("11" in losses for losses in tried.values())
        tried = {n: {seed: one["val_loss"] for seed, one in by_seed.items()} for n, by_seed in tried.items()}
        by_first = sorted(tried, key=lambda name: tried[name]["11"])
        assert [name for name, losses in tried.items() if "12" in losses] == [n for n in tried if n in by_first[:2]]
        means = {name: statistics.mean(losses.values()) for name, losses in tried.items() if len(losses) == 2}
        chosen = report["chosen"][attention]
        assert chosen == min(means, key=means.get)
        runs = [run for run in report["runs"] if run["attention"] == attention]
        assert [run["seed"] for run in runs] == [1, 2]
        for run in runs:
            setting = {**run["config"], "learning_rate": run["learning_rate"]}
            assert name_of(setting) == chosen
    assert [row["attention"] for row in table] == ["vanilla", "differential"]
    assert {*table[1]["pairs"]} == {1, 2} and all(row["best"] for row in table)
    assert "the best of 4 settings per mechanism, chosen with seeds 11,12" in capsys.readouterr().out
    assert Path("out/tuned/loss.png").exists()


def test_a_setting_is_chosen_only_after_all_tuning_seeds(go, monkeypatch):
    """Here the second tuning seed is bad luck for all that are trained with it."""

    def outcome(folder):
        return {"val_loss": float(folder.name.split("-")[1]) + 10 * ("-12" in folder.name)}

    monkeypatch.setattr(lab.tune, "outcome", outcome)
    go()
    report = json.loads(Path("out/tuned/results.json").read_text())
    assert report["tuning"]["vanilla-0.02-0.001-2"] == {"11": {"val_loss": 0.02}, "12": {"val_loss": 10.02}}
    assert (
        report["chosen"]["vanilla"].startswith("vanilla-0.02") and "12" not in report["tuning"]["vanilla-0.2-0.001-2"]
    )


def test_the_same_command_goes_on(go, monkeypatch):
    table = go()
    monkeypatch.setattr(lab.runs, "begin", None)
    assert go() == table


def test_what_was_chosen_elsewhere_is_compared_without_tuning(go, capsys):
    go(learning_rate=2e-3)
    before = json.loads(Path("out/tuned/results.json").read_text())["chosen"]
    options = {"init_stds": None, "n_heads": None, "chosen_in": "out/tuned/results.json", "out_dir": "out/wider"}
    capsys.readouterr()
    go(n_embd=32, attentions=("differential",), **options)
    report = json.loads(Path("out/wider/results.json").read_text())
    assert report["chosen"] == {"differential": before["differential"]} and report["tuning"] == {}
    assert [run["seed"] for run in report["runs"]] == [1, 2]
    assert all(run["config"]["n_embd"] == 32 and run["learning_rate"] == 2e-3 for run in report["runs"])
    assert {path.name for path in Path("out/wider").iterdir() if path.is_dir()} == {
        f"{before['differential']}-{seed}" for seed in (1, 2)
    }
    assert "the settings chosen in out/tuned/results.json" in capsys.readouterr().out
    said = mistake(go, n_embd=18, attentions=("differential",), **options)
    assert said.startswith("n_embd=18: must be a multiple of 2 n_head"), "before a run is begun"


def test_a_file_that_chose_nothing_is_refused(go, tmp_path):
    run = {"attention": "vanilla", "learning_rate": 0.1, "config": {"init_std": 0.1, "n_head": 2}}
    for text, message in (
        (None, "No such file or directory"),
        ("{", "is no results.json of lab.tune"),
        ("[]", "is no results.json of lab.tune"),
        ("{}", "has no runs; lab.tune writes such a file"),
        (json.dumps({"runs": [run]}), "has no differential; lab.tune writes such a file"),
    ):
        path = tmp_path / "chosen.json"
        if text is not None:
            path.write_text(text)
        said = mistake(go, init_stds=None, n_heads=None, chosen_in=str(path))
        assert said == f"chosen_in={path}: {message}"
    said = mistake(go, chosen_in=str(path))
    assert said == f"init_stds: is chosen already in chosen_in={path}; leave out one of the two"


def settings():
    return [
        {"attention": a, "init_std": s, "learning_rate": 0.1, "n_head": 2}
        for a in ("vanilla", "softmax1")
        for s in (0.1, 0.2, 0.3)
    ]


def test_the_lowest_mean_is_the_best_and_what_failed_is_none():
    losses = {name_of(one): (1.0 + one["init_std"], 3.0 - 10 * one["init_std"]) for one in settings()}
    tried = {name: {11: {"val_loss": a}, 12: {"val_loss": b}} for name, (a, b) in losses.items()}
    best = best_of(tried, settings(), ("vanilla", "softmax1"), 2)
    assert [(one["attention"], one["init_std"]) for one in best] == [
        ("vanilla", 0.3),
        ("vanilla", 0.2),
        ("softmax1", 0.3),
        ("softmax1", 0.2),
    ]
    del tried["softmax1-0.3-0.1-2"]
    assert best_of(tried, settings(), ("softmax1",), 1)[0]["init_std"] == 0.2
    with pytest.raises(UsageError, match="vanilla: no setting is left"):
        best_of({}, settings(), ("vanilla",), 1)


def test_a_run_that_failed_is_said_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(lab.tune, "run_all", lambda *args: ({"vanilla-0.2-0.1-2-11": "diverged"}, 0))
    monkeypatch.setattr(lab.tune, "outcome", lambda folder: 2.0)
    found, failed = outcomes(Path("out"), settings()[:3], [11], {}, 1)
    assert found == {"vanilla-0.1-0.1-2": {11: 2.0}, "vanilla-0.3-0.1-2": {11: 2.0}}
    assert failed == {"vanilla-0.2-0.1-2-11": "diverged"}
    assert "vanilla-0.2-0.1-2-11 failed, and is left out: diverged" in capsys.readouterr().out


def test_a_fresh_run_that_failed_is_not_compared(go, monkeypatch):
    """It has a checkpoint, of a step before."""
    go()
    chosen = json.loads(Path("out/tuned/results.json").read_text())["chosen"]["differential"]
    train_all = lab.tune.run_all

    def run_all(out, runs, meta, jobs):
        found = train_all(out, runs, meta, jobs)
        return ({f"{chosen}-2": "diverged"} if f"{chosen}-2" in runs else {}, found[1])

    monkeypatch.setattr(lab.tune, "run_all", run_all)
    with pytest.raises(SystemExit):
        go()
    report = json.loads(Path("out/tuned/results.json").read_text())
    assert [run["seed"] for run in report["runs"] if run["attention"] == "differential"] == [1]
    assert report["failed"] == {f"{chosen}-2": "diverged"}


def test_a_signal_ends_it_and_says_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(lab.tune, "run_all", lambda *args: ({}, 15))
    monkeypatch.setattr(lab.tune, "is_done", lambda folder, *args: folder.name == "vanilla-0.1-0.1-2-11")
    with pytest.raises(SystemExit) as error:
        outcomes(Path("out"), settings()[:3], [11], {}, 1)
    assert error.value.code == 143 and "stopped, 2 runs left of this stage: the same command" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (1, 12)}, "seeds=1,12: 12 is also one of tuning_seeds, and would not be fresh"),
        ({"init_stds": (0.1, 0.1)}, "init_stds=0.1,0.1: must name at least one, and none twice"),
        ({"init_stds": (0.1, 0.0)}, "init_stds=0.0: must be more than 0"),
        ({"n_heads": ()}, "n_heads=: must name at least one, and none twice"),
        ({"n_heads": (3,), "n_embd": 24}, "n_head=3: must be a multiple of 2, the maps per differential head"),
        ({"tuning_seeds": (-1,)}, "tuning_seeds=-1: must be at least 0 and less than 2^63"),
        ({"n_best": 0}, "n_best=0: must be at least 1"),
        ({"attention": "vanilla"}, "attention: is chosen for every run; give attentions"),
    ],
)
def test_mistakes_are_explained(go, options, message):
    assert mistake(go, **options).partition("; none:")[0] == message
