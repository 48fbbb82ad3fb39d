"""How fast is each mechanism on this machine, and how much memory does it take?

python -m lab.bench config/cpu.toml                               training steps, attention alone, sampling
python -m lab.bench --parts=step,race --peer=PATH_TO_NANOGPT      beside nanoGPT: steps, and runs to the same loss

Functions that are compared take turns, so that a machine that slows down slows all of them down. A ratio is the median
of the rounds' ratios, between their quartiles.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from torch.profiler import profile
from tqdm import tqdm

from configurable import PositiveInt, Range, UsageError, bind, check, one_of, run
from lab.show import THE_FOUR, look, table
from model import GPT, Cache, pick
from plumbing.checkpoint import load, write_json
from plumbing.machine import device_name, find_autocast, find_device
from plumbing.run import ROOT, command, drawing, provenance
from prepare import Split
from train import evaluate, make_optimizer, train

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would print lines of its own
SEED = 1337  # of weights and tokens
WORDS = {
    "parts": ("step", "attention", "sampling", "race"),
    "paths": ("fused", "unfused"),
    "modes": ("eager", "compiled"),
}
PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}  # bf16 FLOP/s


def bench(
    *,
    parts: tuple[str, ...] = ("step", "attention", "sampling"),  # step, attention, sampling, race (with --peer)
    attentions: tuple[str, ...] = THE_FOUR,  # mechanisms to measure
    paths: tuple[str, ...] = ("fused", "unfused"),  # fused: a kernel; unfused: plain products, which store the maps
    modes: tuple[str, ...] | None = None,  # eager, compiled; none: eager, on CUDA both
    lengths: Annotated[tuple[int, ...], Range(ge=1)] | None = None,  # windows T; none: 64,256,1024, on CUDA 256 to 8192
    tokens: PositiveInt | None = None,  # tokens per step, a multiple of all --lengths; none: the largest of them
    repetitions: PositiveInt = 10,  # rounds, in each of which everything is timed once
    peer: str | None = None,  # folder of a nanoGPT checkout to measure, too
    out_dir: str = "out/bench",  # folder for bench.json and step.png
    **options: train,  # of these the shape, device and dtype count
):
    """Measure speed and memory; prints tables. Returns the rows of bench.json."""
    check(bench, {**options, **{name: value for name, value in locals().items() if name != "options"}})
    device = find_device(options.get("device", "auto"))
    cuda, out = device.type == "cuda", Path(out_dir)
    modes = modes or WORDS["modes"][: 1 + cuda]
    lengths = sorted(lengths or ((256, 1024, 4096, 8192) if cuda else (64, 256, 1024)))
    tokens = tokens or lengths[-1]
    for name, given in {"parts": parts, "paths": paths, "modes": modes}.items():
        for word in given:
            one_of(name, word, WORDS[name])
    if any(tokens % T for T in lengths):
        raise UsageError(f"tokens={tokens}: must be a multiple of each of lengths, {', '.join(map(str, lengths))}")
    if "race" in parts and not peer:
        raise UsageError("parts=race: needs --peer=FOLDER, the folder of a nanoGPT checkout")
    shapes = {name: bind(train, [], {**options, "attention": name, "dropout": 0.0})[0][0] for name in attentions}
    autocast, _ = find_autocast(options.get("dtype", "auto"), device)
    plan = Plan(shapes, paths, modes, repetitions, device, autocast, load_peer(peer) if peer else None)
    report = {"command": command(), "device": device_name(device), "repetitions": repetitions}
    report |= {"shape": dataclasses.asdict(shapes[attentions[0]]), "rows": [], **provenance()}
    out.mkdir(parents=True, exist_ok=True)

    measured = {
        "step": lambda: [row for T in lengths for row in training_steps(plan, T, tokens)],
        "attention": lambda: [row for T in lengths for row in attention_alone(plan, T, tokens)],
        "sampling": lambda: [row for L in sorted({report["shape"]["block_size"], 1024}) for row in sampling(plan, L)],
        "race": lambda: race(plan, Path(peer)),
    }
    for part in parts:
        rows = measured[part]()
        report["rows"] += [{"part": part, **row} for row in rows]
        write_json(out / "bench.json", report)
        print(f"\n{part}, {report['device']}\n\n{table(rows)}", flush=True)
        if part == "step":
            draw(out / "step.png", f"a training step of {tokens:,} tokens, {modes[-1]}; {report['device']}", rows)
    return report["rows"]


@dataclasses.dataclass
class Plan:
    """What all measurements have in common."""

    shapes: dict  # {mechanism: its GPTConfig}
    paths: tuple
    modes: tuple
    repetitions: int
    device: torch.device
    autocast: torch.autocast
    peer: object  # nanoGPT's model.py as a module, or None

    def in_turns(self, steps):
        return in_turns(steps, self.repetitions, self.device)


# ---------------------------------------------------------------------------- time, memory, kernels


def in_turns(steps, repetitions, device):
    """{name: [seconds, one per round]} of `steps`, {name: function}; None for one that runs out of the GPU's memory."""
    seconds = {}
    for name, step in tqdm(steps.items(), "warm-up", disable=None):
        try:
            step()  # compiles
            step()  # fills caches
            seconds[name] = []
        except torch.OutOfMemoryError:
            seconds[name] = None
    names = [name for name in steps if seconds[name] is not None]
    for r in tqdm(range(repetitions), "rounds", disable=None):
        first = r % max(1, len(names))  # nobody is always first
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_of(steps[name], device))
    return seconds


def footprint(step, device):
    """(the most bytes that a call allocates at once beyond those before it, the kernel that computes attention)"""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with profile(profile_memory=not cuda) as trace:
        step()
    if cuda:
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        changes = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        peak = max(itertools.accumulate(event.nbytes() for event in changes), default=0)
    names = " ".join(event.key for event in trace.key_averages())
    kernels = {*re.findall(r"_scaled_dot_product_(?:attention_)?(flash|efficient|cudnn|math)", names)}
    return peak, " ".join(sorted(kernels)) or "none"


def seconds_of(step, device):
    """Seconds that one call of `step` takes, until the device has finished it."""
    finish = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    finish()
    started = time.perf_counter()
    step()
    finish()
    return time.perf_counter() - started


def quartiles(values):
    """[lower quartile, median, upper quartile]"""
    return np.percentile([*values], (25, 50, 75)).tolist()


def speedup(base, seconds):
    """Quartiles of the rounds' ratios: how many times as fast as `base` a function was."""
    return quartiles(b / s for b, s in zip(base, seconds, strict=True))


def in_mode(mode, function):
    """The function itself, or compiled."""
    if mode == "eager":
        return function
    torch._dynamo.config.recompile_limit = 64  # variants share code; after 8 dynamo would silently stop compiling
    return torch.compile(function, dynamic=False)


# ---------------------------------------------------------------------------- training steps, and attention alone


def variants(plan, **changes):
    """(name, model, its loss as a function of x and y) of all that is compared; a name is (mechanism, path, mode)."""
    torch.compiler.reset()
    for (attention, shape), path in itertools.product(plan.shapes.items(), plan.paths):
        torch.manual_seed(SEED)
        gpt = GPT(dataclasses.replace(shape, fused=path == "fused", **changes)).to(plan.device)
        for mode in plan.modes:
            yield (attention, path, mode), gpt, in_mode(mode, gpt)
    if plan.peer:
        net = peer_model(plan, **changes)
        for mode in plan.modes:
            fast = in_mode(mode, net)
            yield ("nanoGPT", "fused", mode), net, lambda x, y, fast=fast: fast(x, y)[1]


def random_windows(plan, n, T):
    """n windows of random tokens, BT."""
    size, generator = next(iter(plan.shapes.values())).vocab_size, torch.Generator().manual_seed(SEED)
    return torch.randint(size, (n, T), generator=generator).to(plan.device)


def training_steps(plan, T, tokens):
    """A row per variant: forward, backward, clipping and optimizer, of `tokens` tokens in windows of T."""
    x, steps, held, flops, optimizers = random_windows(plan, tokens // T, T), {}, {}, {}, {}
    for name, net, loss_of in variants(plan, block_size=T):
        if net not in optimizers:
            optimizers[net] = (peer_optimizer if name[0] == "nanoGPT" else make_optimizer)(net, 0.1, (0.9, 0.95))
        steps[name] = functools.partial(training_step, net, loss_of, optimizers[net], x, x.roll(-1, 1), plan.autocast)
        adam = [p for p in net.parameters() for _ in range(3)]  # each weight, and AdamW's two moments of its gradient
        held[name] = sum(z.nbytes for z in (*net.buffers(), *adam))
        flops[name] = sum(net.flops_per_token(T)) if name[0] != "nanoGPT" else 0
    return speed_rows(plan, T, tokens, steps, held, flops)


def training_step(net, loss_of, optimizer, x, y, autocast):
    try:
        with autocast:
            loss = loss_of(x, y)
        loss.backward()
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    finally:  # also where memory ran out: the next variant needs it
        optimizer.zero_grad()


def attention_alone(plan, T, tokens):
    """A row per variant: `mix` of one layer and the head norm, forward and backward, without projections."""
    plan = dataclasses.replace(plan, peer=None)
    C, generator = next(iter(plan.shapes.values())).n_embd, torch.Generator().manual_seed(SEED)
    x, steps, held, flops = torch.randn(tokens // T, T, C, generator=generator).to(plan.device), {}, {}, {}
    for name, gpt, _ in variants(plan, block_size=T, vocab_size=1, n_layer=1):
        layer = gpt.blocks[0].attention
        with torch.no_grad(), plan.autocast:
            qkv = [z.requires_grad_() for z in layer.project(x)]
        mixed = in_mode(name[2], functools.partial(mix, layer))
        steps[name] = functools.partial(attention_step, mixed, x, qkv, plan.autocast)
        held[name] = sum(z.nbytes for z in qkv)
        flops[name] = 3 * layer.flops((T + 1) / 2)  # backward is twice the forward
    return speed_rows(plan, T, tokens, steps, held, flops)


def mix(layer, x, q, k, v):
    return layer.norm(layer.mix(x, q, k, v))


def attention_step(mixed, x, qkv, autocast):
    with autocast:
        y = mixed(x, *qkv)
    y.backward(y.detach())
    for z in qkv:
        z.grad = None


def speed_rows(plan, T, tokens, steps, held, flops):
    """A row per variant, whose step reads `tokens` tokens in windows of T. held: its bytes before the step began."""
    rows, measured = [], plan.in_turns(steps)
    for name, seconds in measured.items():
        attention, path, mode = name
        row = {"T": T, "attention": attention, "path": path, "mode": mode}
        rows.append(row)
        if seconds is None:
            row["failed"] = "out of memory"
            continue
        row["tokens_per_second"] = quartiles(tokens / s for s in seconds)
        if base := measured.get(("vanilla", "fused", mode)):
            row["to_fused_vanilla"] = speedup(base, seconds)
        peak, kernel = footprint(steps[name], plan.device)
        row |= {"MB": (held[name] + peak) / 1e6, "kernel": kernel}
        if plan.autocast._enabled and attention != "nanoGPT" and device_name(plan.device) in PEAKS:
            row["share_of_peak"] = flops[name] * row["tokens_per_second"][1] / PEAKS[device_name(plan.device)]
    return rows


def draw(path, title, rows):
    """Speed and memory against T: a line per mechanism and path, in the last mode."""
    rows = [row for row in rows if row["mode"] == rows[-1]["mode"] and "MB" in row]
    with drawing(path, 9, 4.2, 1, 2) as (figure, panels):
        for axes, key in zip(panels, ("tokens_per_second", "MB"), strict=True):
            for name, way in dict.fromkeys((row["attention"], row["path"]) for row in rows):
                line = [row for row in rows if (row["attention"], row["path"]) == (name, way)]
                style = look(name) | {"ls": "-" if way == "fused" else ":", "label": f"{name}, {way}"}
                axes.plot([row["T"] for row in line], [np.median(row[key]) for row in line], ms=5, **style)
            axes.set(xscale="log", ylim=(0, None), xlabel="T (tokens in a window)", ylabel=key.replace("_", " "))
            axes.set_xticks(sorted({row["T"] for row in rows}), sorted({row["T"] for row in rows}))
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        panels[0].legend(fontsize=8)
        figure.suptitle(title, fontsize=10)


# ---------------------------------------------------------------------------- sampling


@torch.no_grad()
def sampling(plan, L):
    """A row per mechanism, in windows of L: 256 tokens from nothing; one token at position 50, and at 1000."""
    steps, cache_bytes, prompt = {}, {}, random_windows(plan, 1, L)
    for attention, shape in plan.shapes.items():
        torch.manual_seed(SEED)  # random weights: a trained model takes as long
        gpt = GPT(dataclasses.replace(shape, block_size=L)).to(plan.device).eval()
        steps[attention, 256] = functools.partial(draw_256, gpt, prompt[:, :1])
        for position in (p for p in (50, 1000) if p < L):
            cache = [Cache(L) for _ in gpt.blocks]
            gpt(prompt[:, :position], cache=cache)
            steps[attention, position] = functools.partial(draw_one, gpt, prompt[:, :1], cache, position)
            cache_bytes[attention] = sum(layer.k.nbytes + layer.v.nbytes for layer in cache)
    if plan.peer:
        net = peer_model(plan, block_size=L).eval()
        steps["nanoGPT", 256] = functools.partial(net.generate, prompt[:, :1], 256)
    measures, rows = plan.in_turns(steps), []
    for attention in dict.fromkeys(name for name, _ in steps):
        row, of_256 = {"window": L, "attention": attention}, measures[attention, 256]
        rows.append(row)
        if any(seconds is None for name, seconds in measures.items() if name[0] in (attention, "nanoGPT")):
            row["failed"] = "out of memory"
            continue
        row["tokens_per_second"] = quartiles(256 / s for s in of_256)
        if plan.peer:
            row["to_nanogpt"] = speedup(measures["nanoGPT", 256], of_256)
        if (attention, 1000) in measures:
            row["seconds_at_1000_to_at_50"] = speedup(measures[attention, 1000], measures[attention, 50])
        if attention in cache_bytes:
            row["cache_MB"] = cache_bytes[attention] / 1e6
    return rows


def draw_256(gpt, prompt):
    list(gpt.generate(prompt, 256))


def draw_one(gpt, token, cache, position):
    """Read and draw the token at `position`; the next call overwrites it in the cache."""
    for layer in cache:
        layer.length = position
    pick(gpt(token, cache=cache)[:, -1])


# ---------------------------------------------------------------------------- nanoGPT, and a race against it


def load_peer(folder):
    """The model.py of a nanoGPT checkout, as a module. Raises UsageError where it is no checkout."""
    if not Path(folder, "config/train_shakespeare_char.py").is_file():
        raise UsageError(f"peer={folder}: must be the folder of a nanoGPT checkout")
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(folder, "model.py"))
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer_model(plan, **changes):
    """nanoGPT's model in the plan's shape, and like ours without biases."""
    shape = dataclasses.asdict(next(iter(plan.shapes.values()))) | changes
    same = {name: shape[name] for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout")}
    torch.manual_seed(SEED)
    with contextlib.redirect_stdout(io.StringIO()):
        return plan.peer.GPT(plan.peer.GPTConfig(bias=False, **same)).to(plan.device)


def peer_optimizer(net, weight_decay, betas):
    """The AdamW that nanoGPT makes for its own model."""
    with contextlib.redirect_stdout(io.StringIO()):
        return net.configure_optimizers(weight_decay, 1e-3, betas, next(net.parameters()).device.type)


RACES = {  # nanodiff's preset and options; nanoGPT's options, which are those of its README
    "cpu": (
        "race.toml",
        "",
        "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
        "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0",
    ),
    "cuda": ("gpu.toml", "--max_iters=2000", ""),
}


def race(plan, folder):
    """Rows of nanodiff and of the nanoGPT in `folder`, each trained on tiny Shakespeare up to three times.

    Both have prepared it before, as their READMEs say. Seconds are from a program's start to its exit; the loss is that
    of its best checkpoint over all of the validation split. nanoGPT chooses that checkpoint by 20 batches, on CUDA 200.
    """
    preset, options, peer_options = RACES[plan.device.type]
    seconds, losses = {"nanodiff": [], "nanoGPT": []}, {"nanodiff": [], "nanoGPT": []}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in tqdm(range(1, 1 + min(plan.repetitions, 3)), "races", disable=None):
            ours, theirs = (Path(temporary, f"{who}-{seed}") for who in seconds)
            words = [ROOT / "train.py", ROOT / "config" / preset, "--dataset=tinyshakespeare", f"--out_dir={ours}"]
            seconds["nanodiff"].append(run_program(*words, f"--seed={seed}", *options.split()))
            words = ["train.py", "config/train_shakespeare_char.py", f"--out_dir={theirs}", *peer_options.split()]
            seconds["nanoGPT"].append(run_program(*words, folder=folder))
            losses["nanodiff"].append(load(ours)["best"]["val_loss"])
            losses["nanoGPT"].append(peer_loss(plan, folder, theirs / "ckpt.pt"))
    rows = []
    for who, mine in seconds.items():
        ratios = quartiles(own / base for own, base in zip(mine, seconds["nanoGPT"], strict=True))
        row = {"who": who, "seconds": quartiles(mine), "seconds_to_nanogpt": ratios}
        rows.append(row | {"val_loss": quartiles(losses[who]), "worst_val_loss": max(losses[who])})
    return rows


def run_program(*words, folder=None):
    """Seconds of a Python program from start to exit."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def peer_loss(plan, folder, checkpoint):
    """The loss of nanoGPT's checkpoint over all of its val.bin, in nats/token."""
    saved = torch.load(checkpoint, map_location=plan.device, weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):
        net = plan.peer.GPT(plan.peer.GPTConfig(**saved["model_args"])).to(plan.device)
    net.load_state_dict({name.removeprefix("_orig_mod."): weight for name, weight in saved["model"].items()})
    net.device = plan.device  # where `evaluate` sends the tokens
    val = np.fromfile(folder / "data/shakespeare_char/val.bin", np.uint16)
    split = Split(val, saved["model_args"]["block_size"])
    return evaluate(lambda x, y: net(x, y)[1], net, split, 24, None, plan.autocast)["val_loss"]


def preset(values):
    """The shape where none is named."""
    cuda = values.get("device", "auto") != "cpu" and torch.cuda.is_available()
    return os.path.relpath(ROOT / f"config/{'gpt2' if cuda else 'cpu'}.toml")


if __name__ == "__main__":
    run(bench, preset=preset, program="python -m lab.bench")
