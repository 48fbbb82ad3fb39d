"""lab/analyze.py: what it reads, reports, shows and refuses."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
from lab.needles import needles

from configurable import UsageError, run, signature
from lab.analyze import KEY, LINES, analyze, compared, summary
from lab.pictures import spelled
from lab.show import THE_FOUR
from lab.solved import solved, table
from model import GPTConfig
from plumbing.checkpoint import load, load_model, save
from plumbing.dataset import load_dataset
from plumbing.run import ROOT
from prepare import Tokenizer, prepare
from train import evaluate, train

SHAPE = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 16}


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """The folder of a run of each mechanism, two steps long."""
    out = tmp_path_factory.mktemp("analyze")
    for name in THE_FOUR:
        model = GPTConfig(name, **SHAPE)
        train(model, dataset=str(corpus), max_iters=2, batch_size=2, eval_tokens=100, out_dir=str(out / name))
    return out


@pytest.fixture
def checkpoints(runs):
    return [str(runs / name) for name in THE_FOUR]


def test_four_mechanisms_side_by_side(checkpoints, capsys):
    report = analyze(*checkpoints, tokens=320, windows=4)
    out, shown = Path("out/analysis"), capsys.readouterr().out
    assert json.loads((out / "analysis.json").read_text()) == json.loads(json.dumps(report))
    assert {path.name for path in out.glob("*.png")} == {
        *(f"{kind}-{name}.png" for kind in ("map", "maps") for name in THE_FOUR),
        *("weights.png", "losses.png", "lam-differential.png", "g-temperature.png"),
    }
    assert [entry["name"] for entry in report["checkpoints"]] == list(THE_FOUR)
    for entry in report["checkpoints"]:
        double = entry["name"] == "differential"
        assert len(entry["heads"]) == (2 if double else 4)
        assert entry["tokens"] == 320 and entry["windows"] == 4 and len(entry["loss"]["by_position"]) == 16
        assert sum(entry["weights"]) == pytest.approx(1)
        assert len(entry["interventions"]) == (12 if double else 7)
    lam = report["checkpoints"][3]["learned"]["lam"]
    assert len(lam["start"]) == len(lam["now"]) == 2 and [row[0] for row in lam["over_training"]] == [0, 2]
    assert table(compared(report["checkpoints"])) in shown and "±" not in shown


def other_seed(folder, seed, path, **changes):
    """Copy a run's best.pt to `path`, with another seed, and with other values of `changes` beside it."""
    old = load(folder / "best.pt") | changes
    old["options"]["seed"] = seed
    save(Path(path), old)
    return path


def test_seeds_of_one_mechanism_share_a_column_of_mean_and_sd(runs, capsys):
    seeds = [other_seed(runs / "vanilla", seed, f"vanilla-{seed}.pt") for seed in (1, 2)]
    entries = analyze(*seeds, str(runs / "softmax1"), tokens=320, windows=4)["checkpoints"]
    assert "| vanilla, mean ± sd of 2 | softmax1 " in capsys.readouterr().out
    for i, loss in enumerate((1.0, 2.0)):
        entries[i]["loss"]["all"] = loss
        entries[i]["interventions"][-1]["loss_change"] = -0.5 * i
    rows = {row["number"]: row for row in compared(entries)}
    loss, change = (rows[LINES[name][0]] for name in ("loss", "Δ loss, logits in 4 bits"))
    assert loss["vanilla, mean ± sd of 2"] == "1.5000 ± 0.7071" and "±" not in loss["softmax1"]
    assert change["vanilla, mean ± sd of 2"] == "-0.2500 ± 0.3536"


def test_what_differs_in_more_than_its_seed_has_a_column_of_its_own(runs, capsys):
    shutil.copy(runs / "vanilla" / "best.pt", "same-seed.pt")
    other_seed(runs / "vanilla", 2, "other-seed.pt")
    analyze(str(runs / "vanilla"), "same-seed.pt", "other-seed.pt", tokens=64, windows=2)
    shown = capsys.readouterr().out
    assert "±" not in shown and "| same-seed.pt | other-seed.pt |" in shown


def test_checkpoints_of_different_steps_are_warned_of_in_one_line(runs, checkpoints, capsys):
    analyze(*checkpoints, tokens=64, windows=2)
    assert "different steps" not in capsys.readouterr().out
    later = other_seed(runs / "softmax1", 1, "later.pt", step=40)
    analyze(checkpoints[0], later, tokens=64, windows=2)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "different steps" in line)
    assert line.startswith("warning: ") and "step 2: vanilla; step 40: softmax1" in line


def test_a_checkpoint_of_another_text_is_warned_of(runs, corpus, capsys):
    data = load(runs / "vanilla" / "best.pt")["data"]
    data["train"] = {**data["train"], "sha256": "0" * 64}
    analyze(other_seed(runs / "vanilla", 1, "other.pt", data=data), tokens=64, windows=2)
    shown = capsys.readouterr().out
    assert "warning: vanilla was trained on another text than " in shown


def test_the_terminal_shows_at_most_eight_lines_of_numbers(checkpoints, capsys):
    report = analyze(*checkpoints, tokens=64, windows=2)
    lines = capsys.readouterr().out.splitlines()
    for entry, line in zip(report["checkpoints"], lines, strict=False):  # first of all a line per checkpoint
        size = f"{entry['name']}, {entry['parameters']:,} parameters, step 2, seed 1337"
        assert line == f"{entry['path']}: {size}; maps of 2 windows of 16 tokens"
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert len(rows) == 8 and len(lines) == 4 + 1 + 10 + 1 + 1  # checkpoints, table, where the rest is
    assert all(" " in row.split("|")[1].strip() for row in rows)  # a sentence each, no name of a variable
    assert "analysis.json" in lines[-1] and "`key`" in lines[-1]


def names_in(report):
    """The names of all numbers in a report, and of its interventions."""
    for entry in report["checkpoints"]:
        yield from entry.keys() - {"name", "path", "dataset", "heads", "outliers", "interventions", "loss"}
        yield from entry["loss"]
        tables = [entry[name] for name in ("heads", "outliers", "interventions")]
        for rows in [*tables, *entry.get("needles", {}).values()]:
            yield from (name for row in rows for name in row)
        yield from (row["what"] for row in entry["interventions"])
        yield from entry.get("needles", {})
        yield from (name for numbers in entry["learned"].values() for name in numbers)


def test_every_number_of_the_report_is_explained_by_its_key(checkpoints):
    report = analyze(*checkpoints, tokens=64, windows=2)
    names = set(names_in(report))
    assert {"row_sum", "A1_A2_cosine", "top_100", "λ by 0", "hit_error", "n_layer"} <= names
    assert names - report["key"].keys() == set()
    assert all(sentence[0].isupper() and sentence[-1] == "." for sentence in report["key"].values())


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/results/analysis*/analysis.json")), ids=lambda p: p.parent.name)
def test_records_of_earlier_versions_can_be_read(path):
    entries = json.loads(path.read_text(encoding="utf-8"))["checkpoints"]
    for entry in entries:
        numbers = summary(entry)
        assert {
            "loss",
            "on_first",
            "effective_tokens",
            "at_most_1e-05",
            "sink_rate",
            "hidden kurtosis",
        } <= numbers.keys()
        assert "Δ loss, logits in 4 bits" in numbers and "logits top_1" in numbers
    assert len(compared(entries)) >= 6


def test_the_validation_loss_is_the_one_of_training(runs):
    (entry,) = analyze(str(runs / "vanilla"), tokens=10**9)["checkpoints"]
    gpt, _ = load_model(runs / "vanilla")
    val = load_dataset(entry["dataset"], gpt.device, 16).val
    tokens = len(val.tokens) // 16 * 16
    of_training = evaluate(gpt, gpt, val, 4, tokens, contextlib.nullcontext())
    assert entry["loss"]["all"] == pytest.approx(of_training, rel=1e-5)


def test_two_of_a_kind_are_named_by_their_paths(runs, checkpoints):
    shutil.copy(runs / "vanilla" / "best.pt", "other.pt")
    report = analyze(checkpoints[0], "other.pt", tokens=64, windows=2, layer=0, head=1)
    assert [entry["name"] for entry in report["checkpoints"]] == [checkpoints[0], "other.pt"]
    assert Path("out/analysis/map-other.pt.png").exists()


def test_a_text_is_enough(runs, capsys):
    old = load(runs / "differential" / "best.pt")
    old["options"]["dataset"] = "gone"
    save(Path("moved.pt"), old)
    with pytest.raises(UsageError, match="no dataset"):
        analyze("moved.pt")
    Path("t.txt").write_text("to $be$ λ\n", encoding="utf-8")
    report = analyze("moved.pt", text_file="t.txt")
    (entry,) = report["checkpoints"]
    assert "the text is all that is read" in capsys.readouterr().out
    assert report["source"] == "the text" and entry["tokens"] == 10 and entry["learned"]["lam"]["start"] == []


def test_tokens_are_spelled_in_signs_that_the_font_has(tiny):
    coder = Tokenizer()
    assert spelled(b"a \n$\xce\x07", coder) == ["a", "␣", "⏎", "$", "·", "·"]
    wide = Tokenizer(tiny)
    assert "".join(spelled(wide.encode("to\nλ 字").tolist(), wide)).startswith("to⏎")


def test_tokens_of_tiktoken(tiny, runs):
    Path("a.txt").write_text("to be or not to be\n" * 100)
    prepare("a.txt", tokenizer="gpt2")
    train(GPTConfig(n_layer=1, n_embd=16, n_head=2, block_size=8), dataset="a-gpt2", max_iters=1)
    report = analyze("out/a-gpt2-vanilla", tokens=64)
    assert report["ngram"] == 2 and report["source"] == "a-gpt2"
    with pytest.raises(UsageError, match="the losses of different tokenizers cannot be compared: softmax1 has bytes"):
        analyze("out/a-gpt2-vanilla", str(runs / "softmax1"))
    with pytest.raises(UsageError, match=r"data.a-gpt2 is in gpt2, softmax1 reads bytes"):
        analyze(str(runs / "softmax1"), dataset="a-gpt2")


def test_a_token_beyond_the_vocabulary_is_refused(runs):
    old = load(runs / "vanilla" / "best.pt")
    old["config"]["vocab_size"] = 100
    old["model"]["embedding.weight"] = old["model"]["embedding.weight"][:100]
    save(Path("small.pt"), old)
    with pytest.raises(UsageError, match="the text has token 122, and the vocabulary of vanilla is 0 to 99"):
        analyze("small.pt", text="zz")
    with pytest.raises(UsageError, match="has token 255, and the vocabulary of vanilla is 0 to 99"):
        analyze("small.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, "layer=2: differential has layers 0 to 1"),
        ({"layer": -1}, "layer=-1: differential has layers 0 to 1"),
        ({"head": 1}, "head=1: differential has heads 0 to 0"),
        ({"text": ""}, "the text has 0 tokens: 2 is the least"),
        ({"text": "a"}, "the text has 1 token: 2 is the least"),
        ({"text": "a" * 17}, "the text has 17 tokens, and differential sees 16 at once: give at most 16"),
        ({"text": "ab", "text_file": "a"}, "text and text_file are given: give only one of them"),
        ({"text_file": "gone.txt"}, "cannot read gone.txt: No such file"),
        ({"text": "ab", "dataset": "gone"}, "no dataset data/gone"),
        ({"tokens": 0}, "tokens=0: must be at least 1"),
        ({"windows": 0}, "windows=0: must be at least 1"),
        ({"ngram": 1}, "ngram=1: must be at least 2"),
        ({"device": "gpu"}, "device=gpu: "),
    ],
)
def test_mistakes(runs, options, message):
    with pytest.raises(UsageError) as error:
        analyze(str(runs / "differential"), **options)
    assert str(error.value).startswith(message)
    assert not Path("out").exists()


def test_a_mechanism_without_a_map_is_refused(corpus):
    train(
        GPTConfig("factored", **SHAPE), dataset=str(corpus), max_iters=1, batch_size=2, eval_tokens=100, out_dir="out/f"
    )
    for look in (analyze, solved):
        with pytest.raises(UsageError, match="has no maps to look at: its attention, factored, is not linear in V"):
            look("out/f")


def test_help_explains_every_option():
    assert all(option.comment for option in signature(analyze)[0].values())


def test_no_checkpoint_is_explained(runs, capsys):
    with pytest.raises(UsageError, match=r"no checkpoint out.gone"):
        analyze("out/gone")
    with pytest.raises(SystemExit) as end:
        run(analyze, [], program="python -m lab.analyze")
    assert end.value.code == 2
    assert capsys.readouterr().err == "lab.analyze: CHECKPOINTS is missing: train.py makes one\n"
    shutil.copytree(runs / "vanilla", "out/here")
    with pytest.raises(UsageError, match=r"CHECKPOINTS is missing: there is out/here"):
        analyze()


def test_models_of_several_sizes(runs, corpus):
    model = GPTConfig(n_layer=1, n_embd=16, n_head=2, block_size=8)
    train(model, dataset=str(corpus), max_iters=1, batch_size=2, eval_tokens=50, out_dir="out/short")
    short, long = analyze("out/short", str(runs / "softmax1"), tokens=64)["checkpoints"]
    assert (short["T"], long["T"]) == (8, 16)


def test_checkpoints_of_needles(capsys):
    needles(n_needles=3, n_queries=2, length=48, n_contexts=30, n_val_contexts=12)
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 48}
    for name in ("vanilla", "differential"):
        train(GPTConfig(name, **shape), dataset="needles", max_iters=1, batch_size=4, out_dir=f"out/{name}")
    report = analyze("out/vanilla", "out/differential", tokens=10**6, windows=4)
    for entry in report["checkpoints"]:
        answered, loss = entry["needles"], entry["loss"]
        assert [row["needles"] for row in answered["by_n"]] == [1, 2, 3] and answered["by_n"][2]["of"] == 400
        assert [row["depth"] for row in answered["by_depth"]] == [0, 0.25, 0.5, 0.75, 1]
        assert [row["length"] for row in answered["by_length"]] == [40, 44, 48]
        assert [z is None for z in loss["by_position"]] == [i not in (38, 39, 40, 44, 45, 46) for i in range(48)]
        trained = load(f"out/{entry['name']}/ckpt.pt")["best"]["val_loss"]
        assert loss["all"] == pytest.approx(trained, rel=0.02)  # but the last record, whose end nothing follows
    assert Path("out/analysis/needles.png").stat().st_size > 10_000
    assert "NaN" not in Path("out/analysis/analysis.json").read_text()
    assert len(re.findall("^. needles: ", capsys.readouterr().out, re.MULTILINE)) == 3
    assert set(names_in(report)) - KEY.keys() == set()


@pytest.mark.parametrize(
    "extreme", [{"init_std": 1e-30}, {"init_std": 1e-45}, {"learning_rate": 1e18}, {"scale": 1e10}, {"scale": 1e30}]
)
def test_numbers_that_are_none_are_null_and_stop_nothing(extreme, corpus):
    scale = extreme.pop("scale", 1)
    model = GPTConfig("differential", **SHAPE, init_std=extreme.pop("init_std", 0.02))
    with contextlib.suppress(UsageError):  # of the validation loss after the step
        train(model, dataset=str(corpus), max_iters=1, warmup_iters=0, eval_tokens=100, out_dir="run", **extreme)
    checkpoint = load("run/ckpt.pt")
    for weight in checkpoint["model"].values():
        weight.mul_(scale)
    save(Path("run/ckpt.pt"), checkpoint)
    analyze("run/ckpt.pt")
    report = json.loads(Path("out/analysis/analysis.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert report["checkpoints"][0]["heads"]


def test_learned_numbers_of_another_shape_are_not_drawn(runs):
    shutil.copytree(runs / "differential", "run")
    rows = Path("run/metrics.jsonl")
    odd = [{"step": step, "lam": lam} for step, lam in enumerate(([], [[0.5]], [[0.1], [0.2], [0.3]], [[], []]))]
    rows.write_text("".join(json.dumps(row) + "\n" for row in odd) + rows.read_text())
    course = analyze("run")["checkpoints"][0]["learned"]["lam"]["over_training"]
    assert [len(row) for row in course] == [3, 3]


def test_matrices_that_mix_heads_are_in_the_report_and_drawn(go):
    go("mixed", attention="talking-heads")
    (entry,) = analyze("out/mixed", tokens=64, windows=2)["checkpoints"]
    gpt, _ = load_model("out/mixed")
    for name in ("M", "P"):
        layers = [getattr(block.attention, name).tolist() for block in gpt.blocks]
        assert entry["mixtures"][name] == layers and name in KEY
        assert Path(f"out/analysis/{name}-talking-heads.png").stat().st_size > 10_000
    go("plain")
    (entry,) = analyze("out/plain", tokens=64, windows=2)["checkpoints"]
    assert entry["mixtures"] == {}
