"""A page that moves: trained models in the browser, whose attention one can look at and change.

python -m lab.page out/NAME [out/OTHER ...]     writes out/page.html: one file, which needs nothing else and no network

The page is lab/web: page.html and its scripts, of which gpt.js is the forward pass. Weights are rounded to 87 levels
per row, one character each; the command measures what that costs. docs/index.html has the models of config/missing.toml
with --seed=1, and of config/cpu.toml with --dataset=tinyshakespeare --n_layer=3 --n_embd=96, in this order: vanilla,
differential; bounded-2, bounded-2-differential, vanilla, differential.
"""

import contextlib
import json
import os
from pathlib import Path
from urllib.parse import quote

import torch
import torch.nn.functional as F

from configurable import PositiveInt, UsageError, check, run
from lab.analyze import dataset_of, load_models
from lab.show import table
from lab.tasks import SYMBOLS
from model import Attention, Differential, Softmax1, Temperature
from plumbing.checkpoint import write_text
from plumbing.run import ROOT
from prepare import Split
from train import evaluate

WEB = ROOT / "lab/web"
KINDS = {Differential: "softmax", Temperature: "softmax", Softmax1: "softmax1", Attention: "softmax"}
SCRIPTS = ("gpt", "draw", "models", "task", "head", "text", "sketch", "start")
ALPHABET = "".join(chr(i) for i in range(35, 127) if chr(i) not in "&<>\\")[:87]  # what JSON in a <script> may hold
HALF = len(ALPHABET) // 2


def page(
    *checkpoints: str,  # one to six runs' folders (their best.pt is read) or checkpoint files
    text: str = "To be, or not to be: that is the question:",  # what models of text show first
    out: str = "out/page.html",  # file to write
    tokens: PositiveInt = 65536,  # first tokens of the validation split, on which the cost of rounding is measured
):
    """Write a page with the models in it. They read bytes, or are trained on the task `missing` of lab.tasks."""
    check(page, {"tokens": tokens})
    models = load_models(checkpoints, "cpu")
    if len(models) > 6:
        raise UsageError(f"{len(models)} checkpoints: a page shows at most 6")
    tasks = [(model.gpt.config.attention, "missing" in model.checkpoint["data"]) for model in models]
    names = [task[0] if tasks.count(task) == 1 else model.path for task, model in zip(tasks, models, strict=True)]
    shown = [exported(name, model.gpt, model.checkpoint) for name, model in zip(names, models, strict=True)]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    data = {"models": shown, "text": text, "alphabet": ALPHABET, "symbols": SYMBOLS}
    write_text(Path(out), html(data, path_to(ROOT / "docs", Path(out).parent)))
    rows = [{"model": model.path, **rounding(model, tokens)} for model in models]
    print(table(rows))
    print(f"{out}: {Path(out).stat().st_size / 1e6:.2f} MB")
    return rows


def path_to(folder, start):
    """A link to a folder from a page in `start`: relative, or absolute where none is, as between drives of Windows."""
    try:
        return Path(os.path.relpath(folder, start)).as_posix()
    except ValueError:
        return folder.as_uri()


def html(data, course="."):
    """The text of the page: lab/web/page.html with the scripts and the data in it. course: the link to docs."""
    text = json.dumps(data, separators=(",", ":"))  # ASCII
    for c in "<>&":  # no name or text may end the <script> that holds it
        text = text.replace(c, f"\\u{ord(c):04x}")
    scripts = [(WEB / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    template = (WEB / "page.html").read_text(encoding="utf-8")
    template = template.replace('href="COURSE/', 'target="_blank" rel="noopener" href="COURSE/')
    template = template.replace("COURSE/", "" if course == "." else quote(course, safe="/:.") + "/")
    return template.replace("/*SCRIPTS*/", "\n".join(scripts)).replace("/*DATA*/", text)


# ---------------------------------------------------------------------------- a model as the page reads it


def exported(name, gpt, checkpoint):
    """The model as gpt.js reads it. Raises UsageError for one that the page cannot show."""
    if checkpoint["data"]["tokenizer"] != "bytes":
        raise UsageError(f"{name} reads {checkpoint['data']['tokenizer']}: a page shows models of bytes")
    attention, options = gpt.blocks[0].attention, checkpoint["options"]
    task, dataset = checkpoint["data"].get("missing"), Path(options["dataset"]).name
    trained = f"{checkpoint['step']} steps on {'lists' if task else dataset}"
    about = f"{gpt.n_params() / 1e6:.2f}M parameters, {trained}"
    model = {"name": name, "about": about, "missing": task, "config": vars(gpt.config)}
    model |= {"kind": kind_of(name, attention), "pairs": attention.maps_per_head == 2}
    model["bound"] = getattr(attention, "bound", None)
    model["loss"] = checkpoint["best"]["val_loss"]
    model["embedding"] = packed(gpt.embedding.weight)
    model["layers"] = [of_layer(name, block) for block in gpt.blocks]
    return model


def kind_of(name, attention):
    """How rows of scores become weights: softmax or softmax1. Raises UsageError where the page knows no way."""
    mechanism = type(attention)
    if hasattr(attention, "bound"):  # of ideas/bounded.py: `rotate` is all that such a class adds to its parent
        mechanism = mechanism.__base__
    base = next(base for base in KINDS if issubclass(mechanism, base))
    changed = [
        way
        for way in ("forward", "project", "rotate", "mix", "attend")
        if getattr(mechanism, way) is not getattr(base, way)
    ]
    if changed or attention.qkv.weight.shape[0] != 3 * attention.qkv.weight.shape[1]:
        raise UsageError(
            f"{name}: the page shows vanilla, softmax1, temperature, differential, what changes λ or the norm alone, "
            "and these with bounded scores"
        )
    return KINDS[base]


def of_layer(name, block):
    """The weights of a block, its λ per head, g per map, and the gain of its heads' norm; null for what it has not."""
    attention, mlp = block.attention, block.mlp
    matrices = {"qkv": attention.qkv, "out": attention.out, "gate": mlp.gate, "up": mlp.up, "down": mlp.down}
    layer = {key: packed(linear.weight) for key, linear in matrices.items()}
    layer["lam"] = attention.lam.flatten().tolist() if attention.maps_per_head == 2 else None
    layer["g"] = attention.g.flatten().tolist() if isinstance(attention, Temperature) else None
    if hasattr(attention, "bound"):
        layer["g"] = [attention.bound] * attention.H
    layer["gain"] = gain_of(name, attention)
    return layer


@torch.no_grad()
def gain_of(name, attention):
    """What `norm` multiplies a head's normalised output by, E numbers; None if it does nothing. Raises UsageError."""
    y = torch.linspace(-1, 2, 3 * attention.G * attention.E).view(1, attention.G, 3, attention.E)
    z = attention.norm(y)
    if torch.equal(y, z):
        return None
    gain = z / F.rms_norm(y, (attention.E,), eps=1e-5)
    if not torch.allclose(gain, gain[:, :1, :1].expand_as(gain), rtol=1e-3):
        raise UsageError(f"{name}: the page shows heads that are normalised as differential's, or not at all")
    return gain[0, 0, 0].tolist()


def scales_of(weight):
    """What a level is worth in each row of a matrix: its largest number is at the last level. R1"""
    return (weight.abs().amax(1, keepdim=True) / HALF).clamp_min(1e-30)


def packed(weight):
    """A matrix as gpt.js unpacks it: a character per weight, and per row what a level is worth."""
    scales = scales_of(weight)
    levels = (weight / scales).round().int() + HALF
    codes = "".join(ALPHABET[i] for i in levels.flatten().tolist())
    scales = [float(f"{s:.7g}") for s in scales.flatten().tolist()]
    return {"rows": len(weight), "columns": weight.size(1), "codes": codes, "scales": scales}


# ---------------------------------------------------------------------------- what rounding costs


@torch.no_grad()
def rounded(gpt):
    """Round the matrices of gpt, in place, as `packed` does."""
    for weight in gpt.parameters():
        if weight.dim() == 2:
            scales = scales_of(weight)
            weight.copy_((weight / scales).round() * scales)


def rounding(model, tokens):
    """{loss, rounded}: nats per token on val before and after, or why they are not measured. Rounds the model."""
    gpt = model.gpt
    try:
        val = dataset_of([model]).val
    except UsageError as error:
        return {"loss": f"not measured: {error}", "rounded": ""}
    split = Split(val.tokens, gpt.config.block_size, val.record)

    def loss():
        return f"{evaluate(gpt, gpt, split, 16, tokens, contextlib.nullcontext())['val_loss']:.4f}"

    before = loss()
    rounded(gpt)
    return {"loss": before, "rounded": loss()}


if __name__ == "__main__":
    run(page, program="python -m lab.page")
