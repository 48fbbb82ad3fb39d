"""How fast, and in how much memory: every mechanism, explicit and fused, on this machine.

python -m lab.bench                                       training steps, attention itself, sampling, prepare.py
python -m lab.bench --peer=../nanoGPT --parts=step,race   with a checkout of nanoGPT: steps, and runs to the same loss
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from configurable import PositiveInt, Seed, UsageError, check_ranges, one_of, parse, run
from lab.race import load_peer, peer_model, peer_optimizer, race
from lab.show import THE_FOUR, look, table
from lab.timing import in_mode, in_turns, quartiles, speedup
from model import ATTENTION, GPT, Cache, pick
from plumbing.figure import new_figure, write_figure
from plumbing.files import write_json
from plumbing.machine import device_name, find_autocast, find_device
from plumbing.run import ROOT, command, provenance
from prepare import Tokenizer, prepare, stdlib_files
from train import make_optimizer, train

Lengths = Annotated[tuple[int, ...], "at least 1 and at most 1048576"]
PARTS = ("step", "attention", "sampling", "prepare", "race")
PEAKS = {  # dense bf16 FLOP/s of data sheets, by a pattern of the device's name; other devices get no share of a peak
    r"H100 80GB HBM3$|H200$|GH200": 989e12,
    r"H100 PCIe$": 756e12,
    r"A100[-\w]*$": 312e12,
    r"L40S$": 362e12,
    r"RTX 4090$": 165e12,
    r"RTX 3090$": 71e12,
}


def bench(
    *presets: str,  # TOML files with the shapes to measure; none: config/cpu.toml, on CUDA config/gpt2.toml
    parts: tuple[str, ...] = PARTS[:4],  # step, attention, sampling, prepare, or race (with --peer)
    attentions: tuple[str, ...] = THE_FOUR,  # mechanisms to measure
    paths: tuple[str, ...] = ("fused", "explicit"),  # fused (the default of model.py), explicit (plain matrix products)
    modes: tuple[str, ...] | None = None,  # how the model runs: eager, compiled; none: eager, on CUDA both
    lengths: Lengths | None = None,  # window lengths T; none: 64, 256, 1024, on CUDA 256, 1024, 4096, 8192
    tokens: PositiveInt | None = None,  # tokens per step, a multiple of all --lengths; none: the largest of them
    repetitions: PositiveInt = 10,  # how often everything is timed, in turns
    peer: str | None = None,  # folder of a nanoGPT checkout to measure beside nanodiff
    seed: Seed = 1337,  # seed of the weights and the tokens
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",  # number format; auto: bfloat16 on CUDA that has it
    out_dir: str = "out/bench",  # folder for bench.json and one figure per preset
):
    """Measure speed and memory; tables go to the terminal, bench.json and figures to out_dir. Returns the rows."""
    check_ranges(bench, locals())
    device, out = find_device(device), Path(out_dir)
    cuda = device.type == "cuda"
    presets = presets or (str(ROOT / f"config/{'gpt2' if cuda else 'cpu'}.toml"),)
    lengths = sorted(lengths or ((256, 1024, 4096, 8192) if cuda else (64, 256, 1024)))
    modes = modes or (("eager", "compiled") if cuda else ("eager",))
    tokens = lengths[-1] if tokens is None else tokens
    shapes = {Path(preset).stem: parse(train, [preset])[0][0] for preset in presets}
    check(parts, attentions, paths, modes, lengths, tokens, device, shapes)
    if "race" in parts and peer is None:
        raise UsageError("parts=race: needs --peer=FOLDER, the folder of a nanoGPT checkout")
    plan = Plan(attentions, paths, modes, repetitions, seed, device, find_autocast(dtype, device), load_peer(peer))
    origin = {name: value for name, value in provenance().items() if name in ("versions", "commit")}
    report = {"command": command(), "device": device_name(device), "repetitions": repetitions, **origin, "rows": []}
    out.mkdir(parents=True, exist_ok=True)
    print(f"{report['device']}, torch {torch.__version__}")

    def note(part, preset, rows):
        print(f"\n{part}, {preset}\n\n{table(rows)}", flush=True)
        report["rows"] += [{"part": part, "preset": preset, **row} for row in rows]
        write_json(out / "bench.json", report)

    for name, shape in shapes.items():
        if "step" in parts:
            note("step", name, rows := [row for T in lengths for row in training_steps(plan, shape, T, tokens)])
            size = f"{shape.n_layer} layers of {shape.n_embd}, {shape.n_head} maps each"
            draw(out / f"{name}.png", f"{size}, {tokens:,} tokens; {report['device']}", rows)
        if "attention" in parts:
            note("attention", name, [row for T in lengths for row in mixing_steps(plan, shape, T, tokens)])
        if "sampling" in parts:
            note("sampling", name, list(sampling(plan, shape)))
    if "prepare" in parts:
        note("prepare", "stdlib", list(preparing(plan)))
    if "race" in parts:
        note("race", "tinyshakespeare", list(race(Path(peer), repetitions, device, plan.autocast)))
    return report["rows"]


def check(parts, attentions, paths, modes, lengths, tokens, device, shapes):
    """Raises UsageError for an unknown word, a device that is not measured, a shape that cannot be built."""
    given = {"parts": parts, "attentions": attentions, "paths": paths, "modes": modes, "device": (device.type,)}
    allowed = (PARTS, tuple(ATTENTION), ("fused", "explicit"), ("eager", "compiled"), ("cpu", "cuda"))
    for (name, words), known in zip(given.items(), allowed, strict=True):
        for word in words:
            one_of(name, word, known)
    if any(tokens % T for T in lengths):
        raise UsageError(f"tokens={tokens}: must be a multiple of each of lengths, {', '.join(map(str, lengths))}")
    try:
        for shape, attention in itertools.product(shapes.values(), attentions):
            dataclasses.replace(shape, attention=attention)
    except ValueError as error:
        raise UsageError(error) from None


@dataclasses.dataclass
class Plan:
    """What the measurements have in common."""

    attentions: tuple
    paths: tuple
    modes: tuple
    repetitions: int
    seed: int
    device: torch.device
    autocast: torch.autocast
    peer: object  # nanoGPT's model.py, a module; or None


# ---------------------------------------------------------------------------- training, and attention itself


def training_steps(plan, shape, T, tokens):
    """A row per variant: forward, backward, clipping and optimizer on `tokens` tokens in windows of T."""
    torch.compiler.reset()
    shape = dataclasses.replace(shape, block_size=T, dropout=0.0)
    x, y = windows(plan, shape, tokens // T), windows(plan, shape, tokens // T).roll(-1, 1)
    steps, resident_bytes, flops, optimizers = {}, {}, {}, {}
    for name, net, loss_of in variants(plan, shape):
        if net not in optimizers:
            make = peer_optimizer if name[0] == "nanoGPT" else make_optimizer
            optimizers[net] = make(net, 0.1, (0.9, 0.95))
        if name[0] != "nanoGPT":
            flops[name] = sum(net.flops_per_token(T))
        steps[name] = functools.partial(training_step, net, loss_of, optimizers[net], x, y, plan.autocast)
        adam = [p for p in net.parameters() for _ in range(3)]  # each weight, and AdamW's two moments of its gradient
        resident_bytes[name] = sum(z.nbytes for z in (*net.buffers(), *adam))
    return speed_rows(plan, T, x.numel(), in_turns(steps, plan.repetitions, plan.device), resident_bytes, flops)


def training_step(net, loss_of, optimizer, x, y, autocast):
    try:
        with autocast:
            loss = loss_of(x, y)
        loss.backward()
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    finally:  # also where memory ran out: the next variant needs it
        optimizer.zero_grad()


def windows(plan, shape, n):
    """n windows of random tokens, BT."""
    generator = torch.Generator().manual_seed(plan.seed)
    return torch.randint(shape.vocab_size, (n, shape.block_size), generator=generator).to(plan.device)


def variants(plan, shape):
    """(name, model, its loss as a function of x and y) of every variant; a name is (attention, path, mode)."""
    for attention, path in itertools.product(plan.attentions, plan.paths):
        torch.manual_seed(plan.seed)
        net = GPT(dataclasses.replace(shape, attention=attention, fused=path == "fused")).to(plan.device)
        for mode in plan.modes:
            yield (attention, path, mode), net, in_mode(mode, net)
    if plan.peer:
        net = peer_model(plan.peer, shape, plan.seed, plan.device)
        for mode in plan.modes:
            fast = in_mode(mode, net)
            yield ("nanoGPT", "fused", mode), net, lambda x, y, fast=fast: fast(x, y)[1]


def speed_rows(plan, T, tokens, measures, resident_bytes, flops):
    """A row per variant of `measures`, taken on `tokens` tokens in windows of T.

    resident_bytes: what each variant occupied before its step began. flops: floating-point operations per token, of
    those variants for which they are known.
    """
    peak = next((peak for pattern, peak in PEAKS.items() if re.search(pattern, device_name(plan.device))), None)
    for (attention, path, mode), measure in measures.items():
        row = {"T": T, "attention": attention, "path": path, "mode": mode}
        if "failed" in measure:
            yield row | measure
            continue
        row["tokens_per_second"] = quartiles([tokens / s for s in measure["seconds"]])
        if "seconds" in (base := measures.get(("vanilla", "fused", mode), {})):
            row["to_fused_vanilla"] = speedup(base, measure)
        row["milliseconds"] = quartiles([1000 * s for s in measure["seconds"]])
        row["MB"] = (resident_bytes[attention, path, mode] + measure["peak_bytes"]) / 1e6
        if (attention, path, mode) in flops:
            row["TFLOP_per_second"] = flops[attention, path, mode] * row["tokens_per_second"][1] / 1e12
            if peak and plan.autocast._enabled:
                row["share_of_peak"] = row["TFLOP_per_second"] * 1e12 / peak
        yield row | {"kernel": measure["kernel"]}


def mixing_steps(plan, shape, T, tokens):
    """A row per variant: A V of one layer and the norm after it, forward and backward, without projections."""
    torch.compiler.reset()
    plan = dataclasses.replace(plan, peer=None)
    shape = dataclasses.replace(shape, block_size=T, vocab_size=1, n_layer=1, dropout=0.0)
    generator = torch.Generator().manual_seed(plan.seed)
    x = torch.randn(tokens // T, T, shape.n_embd, generator=generator).to(plan.device)
    steps, resident_bytes, flops = {}, {}, {}
    for name, net, _ in variants(plan, shape):
        layer = net.blocks[0].attention
        with torch.no_grad(), plan.autocast:
            qkv = [z.requires_grad_() for z in layer.project(x)]
        mixed = in_mode(name[2], functools.partial(mix, layer))
        steps[name] = functools.partial(mixing_step, mixed, x, qkv, plan.autocast)
        resident_bytes[name] = sum(z.nbytes for z in qkv)
        flops[name] = 3 * layer.flops((T + 1) / 2)  # backward is twice the forward
    measures = in_turns(steps, plan.repetitions, plan.device)
    return speed_rows(plan, T, x.shape[:2].numel(), measures, resident_bytes, flops)


def mix(layer, x, q, k, v):
    return layer.norm(layer.mix(x, q, k, v))


def mixing_step(mixed, x, qkv, autocast):
    with autocast:
        y = mixed(x, *qkv)
    y.backward(y.detach())
    for z in qkv:
        z.grad = None


# ---------------------------------------------------------------------------- sampling


@torch.no_grad()
def sampling(plan, shape):
    """A row per mechanism and window: reading a prompt, one token at position 50 and at 1000, 256 tokens from nothing.

    The windows are the shape's own and one of 1024 tokens. Weights are random: a trained model takes as long.
    """
    for L in sorted({shape.block_size, 1024}):
        shape = dataclasses.replace(shape, block_size=L, dropout=0.0)
        steps, cache_bytes, prompt, half = {}, {}, windows(plan, shape, 1), L // 2
        for attention in plan.attentions:
            torch.manual_seed(plan.seed)
            gpt = GPT(dataclasses.replace(shape, attention=attention)).to(plan.device).eval()
            steps[attention, "prompt"] = functools.partial(read, gpt, prompt[:, :half])
            steps[attention, "256"] = functools.partial(draw_256, gpt, prompt[:, :1])
            for position in (p for p in (50, 1000) if p < L):
                cache = read(gpt, prompt[:, :position])
                steps[attention, position] = functools.partial(draw_one, gpt, prompt[:, :1], cache, position)
            cache_bytes[attention] = sum(layer.k.nbytes + layer.v.nbytes for layer in read(gpt, prompt[:, :1]))
        if plan.peer:
            net = peer_model(plan.peer, shape, plan.seed, plan.device).eval()
            steps["nanoGPT", "256"] = functools.partial(net.generate, prompt[:, :1], 256)
        measures = in_turns(steps, plan.repetitions, plan.device)
        for attention in (*plan.attentions, *(["nanoGPT"] if plan.peer else [])):
            row = {"window": L, "attention": attention}
            own = {what: measure for (name, what), measure in measures.items() if name == attention}
            if reasons := [measure["failed"] for measure in own.values() if "failed" in measure]:
                yield row | {"failed": reasons[0]}
                continue
            row["tokens_per_second_of_256"] = quartiles([256 / s for s in own["256"]["seconds"]])
            if plan.peer and "seconds" in measures["nanoGPT", "256"]:
                row["to_nanogpt"] = speedup(measures["nanoGPT", "256"], own["256"])
            if "prompt" in own:
                row["tokens_per_second_of_prompt"] = quartiles([half / s for s in own["prompt"]["seconds"]])
                row["cache_MB"] = cache_bytes[attention] / 1e6
            if 1000 in own:
                row["seconds_at_1000_to_at_50"] = speedup(own[1000], own[50])
            yield row


def read(gpt, prompt):
    """The caches of all layers after `prompt`."""
    cache = [Cache(gpt.config.block_size) for _ in gpt.blocks]
    gpt(prompt, cache=cache)
    return cache


def draw_256(gpt, prompt):
    list(gpt.generate(prompt, 256))


def draw_one(gpt, token, cache, position):
    """Read and draw the token at `position`; the next call overwrites it in the cache."""
    for layer in cache:
        layer.length = position
    pick(gpt(token, cache=cache)[:, -1])


# ---------------------------------------------------------------------------- prepare.py


def preparing(plan):
    """Rows for the standard library in bytes, in GPT-2's tokens, and encoded in batches by tiktoken itself."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        texts = [path.read_bytes() for path in stdlib_files()]
        Path("once.txt").write_bytes(b"".join(texts))
        Path("often.txt").write_bytes(b"".join(texts) * 8)
        steps = {"bytes": lambda: prepare("often.txt", name="bytes")}
        try:
            gpt2 = Tokenizer.named("gpt2").encoding
            texts = [text.decode("utf-8", "replace") for text in texts]
            Path("once.txt").write_text("".join(texts), encoding="utf-8")
            steps["gpt2"] = lambda: prepare("once.txt", tokenizer="gpt2", name="gpt2")
            steps["tiktoken's own"] = lambda: gpt2.encode_ordinary_batch(texts, num_threads=os.cpu_count())
        except UsageError as error:
            yield {"tokens": "gpt2", "failed": str(error)}
        with contextlib.redirect_stdout(io.StringIO()):
            measures = in_turns(steps, plan.repetitions, torch.device("cpu"))
        base = measures.get("tiktoken's own")
        for name, measure in measures.items():
            mb = Path("often.txt" if name == "bytes" else "once.txt").stat().st_size / 1e6
            row = {"tokens": name, "MB": mb, "MB_per_second": quartiles([mb / s for s in measure["seconds"]])}
            yield row | ({"to_tiktoken": speedup(base, measure)} if base and name != "bytes" else {})


# ---------------------------------------------------------------------------- the figure


def draw(path, title, rows):
    """Speed, relative to fused vanilla where there is one, and memory, against T: a line per mechanism and path."""
    from matplotlib.ticker import FixedLocator, NullLocator

    (figure, panels), mode = new_figure(9, 4.2, 1, 2), rows[-1]["mode"]
    relative = all("to_fused_vanilla" in row or "failed" in row for row in rows)
    speed = ("to_fused_vanilla", "speed ÷ that of fused vanilla") if relative else ("tokens_per_second", "tokens/s")
    for axes, (key, label) in zip(panels, (speed, ("MB", "memory (MB)")), strict=True):
        for name, way in dict.fromkeys((row["attention"], row["path"]) for row in rows):
            line = [r for r in rows if (r["attention"], r["path"], r["mode"]) == (name, way, mode) and key in r]
            T, values = [r["T"] for r in line], [np.median(r[key]) for r in line]
            axes.plot(T, values, **look(name) | {"ls": "-" if way == "fused" else ":"}, ms=5, label=f"{name}, {way}")
        axes.set(xscale="log", ylim=(0, None), xlabel="T (tokens in a window)", ylabel=label)
        axes.xaxis.set(major_locator=FixedLocator(sorted({row["T"] for row in rows})), minor_locator=NullLocator())
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(f"A training step, {mode}; {title}", fontsize=10)
    write_figure(path, figure)


if __name__ == "__main__":
    run(bench, program="python -m lab.bench")
