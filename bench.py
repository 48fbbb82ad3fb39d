"""How fast, and in how much memory: every mechanism, explicit and fused, on this machine.

python bench.py                                        training steps, attention alone, sampling, prepare.py
python bench.py --peer=../nanoGPT --parts=step,race    beside a checkout of nanoGPT: a step, and a run to the same loss

What is compared takes turns, so that a machine that slows down slows down all: a ratio is the median of the rounds'
ratios, between their quartiles. A time is this machine's, today's.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from torch.profiler import profile
from tqdm import tqdm

from configurable import UsageError, nearest, parse, run
from model import ATTENTION, GPT, Cache, pick
from prepare import Tokenizer, prepare, stdlib_files
from train import (
    evaluate,
    find_amp,
    find_device,
    load,
    make_optimizer,
    name_of,
    origin,
    train,
    write_figure,
    write_whole,
)

ROOT = Path(__file__).parent
PARTS = ("step", "attention", "sampling", "prepare", "race")
PEAKS = {  # dense bf16 FLOP/s of the data sheets, by a pattern of the device's name; of others no share is given
    r"H100 80GB HBM3$|H200$|GH200": 989e12,
    r"H100 PCIe$": 756e12,
    r"A100[-\w]*$": 312e12,
    r"L40S$": 362e12,
    r"RTX 4090$": 165e12,
    r"RTX 3090$": 71e12,
}
BAR = {"leave": False, "disable": not sys.stderr.isatty()}


def bench(
    *presets: str,  # whose shapes to measure; none: config/cpu.toml, on CUDA config/gpt2.toml
    parts: tuple[str, ...] = PARTS[:4],  # of step, attention, sampling, prepare, race
    attentions: tuple[str, ...] = tuple(ATTENTION),  # mechanisms
    paths: tuple[str, ...] = ("fused", "explicit"),  # or one of them
    modes: tuple[str, ...] | None = None,  # of eager, compiled; none: eager, on CUDA both
    lengths: tuple[int, ...] | None = None,  # T; none: 64, 256, 1024, on CUDA 256, 1024, 4096, 8192
    tokens: int | None = None,  # in a step, whatever T is; none: as many as the longest T
    repetitions: int = 10,  # rounds
    peer: str | None = None,  # folder of a nanoGPT checkout to measure beside ours
    seed: int = 1337,  # of weights and tokens
    device: str = "auto",  # cpu, cuda ...; auto: cuda where there is one, else cpu
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",  # of matrix products; auto: bfloat16 on CUDA that has it
    out_dir: str = "out/bench",  # folder for bench.json and a figure a preset
):
    """Measure speed and memory; tables go to the terminal, bench.json and figures to out_dir. Returns the rows."""
    device, out = find_device(device), Path(out_dir)
    cuda = device.type == "cuda"
    presets = presets or (str(ROOT / "config" / ("gpt2.toml" if cuda else "cpu.toml")),)
    lengths = sorted(lengths or ((256, 1024, 4096, 8192) if cuda else (64, 256, 1024)))
    modes = modes or (("eager", "compiled") if cuda else ("eager",))
    tokens = lengths[-1] if tokens is None else tokens
    shapes = {Path(preset).stem: parse(train, [preset])[0][0] for preset in presets}
    check(parts, attentions, paths, modes, lengths, tokens, repetitions, peer, seed, device, shapes)
    plan = Plan(attentions, paths, modes, repetitions, seed, device, find_amp(dtype, device), peer and load_peer(peer))
    about = {name: value for name, value in origin(ROOT).items() if name in ("versions", "commit")}
    report = {"command": sys.argv, "device": name_of(device), "repetitions": repetitions, **about, "rows": []}
    out.mkdir(parents=True, exist_ok=True)
    print(f"{report['device']}, torch {torch.__version__}")

    def note(part, preset, rows):
        print(f"\n{part}, {preset}\n\n{table(rows)}", flush=True)
        report["rows"] += [{"part": part, "preset": preset, **row} for row in rows]
        write_whole(out / "bench.json", lambda file: file.write(json.dumps(report, indent=1).encode()))

    for name, shape in shapes.items():
        if "step" in parts:
            note("step", name, rows := [row for T in lengths for row in training_steps(plan, shape, T, tokens)])
            size = f"{shape.n_layer} layers of {shape.n_embd}, {shape.n_head} maps each"
            draw(out / f"{name}.png", f"{size}, {tokens:,} tokens; {report['device']}", rows)
        if "attention" in parts:
            note("attention", name, [row for T in lengths for row in attention_alone(plan, shape, T, tokens)])
        if "sampling" in parts:
            note("sampling", name, list(sampling(plan, shape)))
    if "prepare" in parts:
        note("prepare", "stdlib", list(preparing(plan)))
    if "race" in parts:
        note("race", "tinyshakespeare", list(race(plan, Path(peer).resolve())))
    return report["rows"]


def check(parts, attentions, paths, modes, lengths, tokens, repetitions, peer, seed, device, shapes):
    """Raises UsageError for a word that is none of those there are, a number out of range, a shape that cannot be."""
    for name, words, known in (
        ("parts", parts, PARTS),
        ("attentions", attentions, tuple(ATTENTION)),
        ("paths", paths, ("fused", "explicit")),
        ("modes", modes, ("eager", "compiled")),
    ):
        for word in words:
            if word not in known:
                raise UsageError(f"{name}={word}: must be of {', '.join(known)}{nearest(word, known)}")
    if lengths[0] < 1 or repetitions < 1:
        raise UsageError(f"lengths={lengths[0]}, repetitions={repetitions}: must be at least 1")
    if tokens < 1 or any(tokens % T for T in lengths):
        raise UsageError(f"tokens={tokens}: must be a multiple of each of lengths, {', '.join(map(str, lengths))}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed={seed}: must be at least 0 and less than 2^63")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device={device}: only cpu and cuda are measured")
    if peer is not None and not (Path(peer) / "config/train_shakespeare_char.py").is_file():
        raise UsageError(f"peer={peer}: is not the folder of a nanoGPT checkout")
    try:
        for shape, attention in itertools.product(shapes.values(), attentions):
            dataclasses.replace(shape, attention=attention)
    except ValueError as error:
        raise UsageError(error) from None
    if "race" in parts and peer is None:
        raise UsageError("a race needs whom to race: --peer=FOLDER of a nanoGPT checkout")


@dataclasses.dataclass
class Plan:
    """What all parts are told."""

    attentions: tuple
    paths: tuple
    modes: tuple
    repetitions: int
    seed: int
    device: torch.device
    amp: torch.autocast
    peer: object  # nanoGPT's model.py, a module; or None


# ---------------------------------------------------------------------------- measuring


def in_turns(plan, steps):
    """{name: measures} of `steps`, {name: function}: seconds of each round, bytes, and which kernel attends.

    One that fails, for want of memory or of a compiler, has {"failed": why} instead.
    """
    found = {name: warm_up(plan.device, step) for name, step in tqdm(steps.items(), "warm-up", **BAR)}
    names = [name for name in steps if "failed" not in found[name]]
    for r in tqdm(range(plan.repetitions), "rounds", **BAR):
        first = r % max(1, len(names))
        for name in names[first:] + names[:first]:
            found[name]["seconds"].append(timed(plan.device, steps[name]))
    return found


def warm_up(device, step):
    """Measures of one call of `step`, after two that compile and fill caches: no seconds yet, bytes, kernel."""
    try:
        step()
        step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        with without_stderr(), profile(profile_memory=device.type == "cpu") as trace:
            step()
    except RuntimeError as error:  # out of memory, dynamo's and inductor's errors are all of this kind
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            return {"failed": "out of memory"}
        lines = [line for line in str(error).split("\n") if line.strip() and not line.endswith("raised:")]
        return {"failed": lines[0] if lines else type(error).__name__}
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        changes = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        peak = max(itertools.accumulate(event.nbytes() for event in changes), default=0)
    names = " ".join(event.key for event in trace.key_averages())
    kernels = set(re.findall(r"_scaled_dot_product_(?:attention_)?(flash|efficient|cudnn|math)", names))
    return {"seconds": [], "bytes": peak, "kernel": " ".join(sorted(kernels)) or "none"}


@contextlib.contextmanager
def without_stderr():
    """The profiler of some versions of torch says there when it begins and when it ends."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def timed(device, step):
    """Seconds that one call of `step` takes, until the device has done it."""
    finish = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    finish()
    started = time.perf_counter()
    step()
    finish()
    return time.perf_counter() - started


def spread(values):
    """[lower quartile, median, upper quartile]"""
    return [float(value) for value in np.percentile(values, (25, 50, 75))]


def versus(base, measures):
    """How many times as fast as `base` a function was: the rounds' ratios."""
    return spread([b / s for b, s in zip(base["seconds"], measures["seconds"], strict=True)])


def one_row_each(plan, T, tokens, found, held, flops):
    """A row for each of `found`, in turns measured on `tokens` tokens in windows of T.

    held: bytes that each had before it began; flops: floating-point operations a token of each, where they are known.
    """
    known = [peak for pattern, peak in PEAKS.items() if re.search(pattern, name_of(plan.device))]
    for name, measures in found.items():
        what, path, mode = name
        row = {"T": T, "attention": what, "path": path, "mode": mode}
        if "failed" in measures:
            yield row | {"failed": measures["failed"]}
            continue
        row["tokens_per_second"] = spread([tokens / s for s in measures["seconds"]])
        if "seconds" in (base := found.get(("vanilla", "fused", mode), {})):
            row["to_fused_vanilla"] = versus(base, measures)
        row["milliseconds"] = spread([1000 * s for s in measures["seconds"]])
        row["MB"] = (held[name] + measures["bytes"]) / 1e6
        if name in flops:
            row["TFLOP_per_second"] = flops[name] * row["tokens_per_second"][1] / 1e12
            if known and plan.amp._enabled:
                row["share_of_peak"] = row["TFLOP_per_second"] * 1e12 / known[0]
        yield row | {"kernel": measures["kernel"]}


# ---------------------------------------------------------------------------- training, and attention alone


def variants(plan, shape):
    """(name, model, function of x and y that gives the loss) of all that is asked for; a name is (what, path, mode)."""
    for attention, path in itertools.product(plan.attentions, plan.paths):
        torch.manual_seed(plan.seed)
        net = GPT(dataclasses.replace(shape, attention=attention, fused=path == "fused")).to(plan.device)
        for mode in plan.modes:
            yield (attention, path, mode), net, in_mode(mode, net)
    if plan.peer:
        net = peer_model(plan, shape)
        for mode in plan.modes:
            fast = in_mode(mode, net)
            yield ("nanoGPT", "fused", mode), net, lambda x, y, fast=fast: fast(x, y)[1]


def in_mode(mode, function):
    if mode == "eager":
        return function
    torch._dynamo.config.recompile_limit = 64  # all variants run the same code: beyond 8 it would give up in silence
    return torch.compile(function, dynamic=False)


def load_peer(folder):
    """nanoGPT's model.py in `folder`, as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(folder) / "model.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer_model(plan, shape):
    """nanoGPT of the same shape, without biases as ours."""
    same = {
        name: getattr(shape, name) for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout")
    }
    torch.manual_seed(plan.seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return plan.peer.GPT(plan.peer.GPTConfig(bias=False, **same)).to(plan.device)


def training_steps(plan, shape, T, tokens):
    """A row for every variant: forward, backward, clipping and optimiser on `tokens` tokens in windows of T."""
    torch.compiler.reset()
    shape = dataclasses.replace(shape, block_size=T, dropout=0.0)
    x, y = windows(plan, shape, tokens // T), windows(plan, shape, tokens // T).roll(-1, 1)
    steps, held, flops, optimizers = {}, {}, {}, {}
    for name, net, loss_of in variants(plan, shape):
        if net not in optimizers and name[0] == "nanoGPT":
            with contextlib.redirect_stdout(io.StringIO()):
                optimizers[net] = net.configure_optimizers(0.1, 1e-3, (0.9, 0.95), plan.device.type)
        elif net not in optimizers:
            optimizers[net] = make_optimizer(net, 0.1, (0.9, 0.95))
        if name[0] != "nanoGPT":
            flops[name] = sum(net.flops_per_token(T))
        steps[name] = functools.partial(training_step, net, loss_of, optimizers[net], x, y, plan.amp)
        held[name] = sum(z.nbytes for z in [*net.buffers(), *(p for p in net.parameters() for _ in range(3))])  # AdamW
    return one_row_each(plan, T, x.numel(), in_turns(plan, steps), held, flops)


def windows(plan, shape, n):
    """n windows of random tokens, BT."""
    generator = torch.Generator().manual_seed(plan.seed)
    return torch.randint(shape.vocab_size, (n, shape.block_size), generator=generator).to(plan.device)


def training_step(net, loss_of, optimizer, x, y, amp):
    try:
        with amp:
            loss = loss_of(x, y)
        loss.backward()
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    finally:  # also where memory ran out: the next one needs it
        optimizer.zero_grad()


def attention_alone(plan, shape, T, tokens):
    """A row for every variant: A V of one layer and the norm after it, forward and backward, without projections."""
    torch.compiler.reset()
    plan = dataclasses.replace(plan, peer=None)
    shape = dataclasses.replace(shape, block_size=T, vocab_size=1, n_layer=1, dropout=0.0)
    generator = torch.Generator().manual_seed(plan.seed)
    x = torch.randn(tokens // T, T, shape.n_embd, generator=generator).to(plan.device)
    steps, held, flops = {}, {}, {}
    for name, net, _ in variants(plan, shape):
        layer = net.blocks[0].attention
        with torch.no_grad(), plan.amp:
            qkv = [z.requires_grad_() for z in layer.project(x)]
        steps[name] = functools.partial(attention_step, in_mode(name[2], functools.partial(mix, layer)), qkv, plan.amp)
        held[name] = sum(z.nbytes for z in qkv)
        flops[name] = 3 * layer.n_heads[0] * (layer.D + layer.E) * (T + 1)
    return one_row_each(plan, T, x.shape[:2].numel(), in_turns(plan, steps), held, flops)


def mix(layer, q, k, v):
    return layer.norm(layer.mix(None, q, k, v))


def attention_step(mixed, qkv, amp):
    with amp:
        y = mixed(*qkv)
    y.backward(y.detach())
    for z in qkv:
        z.grad = None


# ---------------------------------------------------------------------------- sampling


@torch.no_grad()
def sampling(plan, shape):
    """A row for every mechanism and window: reading a prompt, a token at position 50 and at 1000, 256 from nothing.

    The window is the shape's own, and 1024 tokens. The weights are random: a trained model takes as long.
    """
    for L in sorted({shape.block_size, 1024}):
        shape = dataclasses.replace(shape, block_size=L, dropout=0.0)
        prompt, half = windows(plan, shape, 1), L // 2
        steps, cache_bytes = {}, {}
        for attention in plan.attentions:
            torch.manual_seed(plan.seed)
            gpt = GPT(dataclasses.replace(shape, attention=attention)).to(plan.device).eval()
            steps[attention, "prompt"] = functools.partial(read, gpt, prompt[:, :half])
            steps[attention, "256"] = functools.partial(continue_, gpt, prompt[:, :1])
            for position in (p for p in (50, 1000) if p < L):
                cache = read(gpt, prompt[:, :position])
                steps[attention, position] = functools.partial(one_more, gpt, prompt[:, :1], cache, position)
            cache_bytes[attention] = sum(layer.k.nbytes + layer.v.nbytes for layer in read(gpt, prompt[:, :1]))
        if plan.peer:
            net = peer_model(plan, shape).eval()
            steps["nanoGPT", "256"] = functools.partial(net.generate, prompt[:, :1], 256)
        found = in_turns(plan, steps)
        for attention in (*plan.attentions, *(["nanoGPT"] if plan.peer else [])):
            row = {"window": L, "attention": attention}
            if why := [m["failed"] for (name, _), m in found.items() if name == attention and "failed" in m]:
                yield row | {"failed": why[0]}
                continue
            row["tokens_per_second_of_256"] = spread([256 / s for s in found[attention, "256"]["seconds"]])
            if plan.peer and "seconds" in found["nanoGPT", "256"]:
                row["to_nanogpt"] = versus(found["nanoGPT", "256"], found[attention, "256"])
            if (attention, "prompt") in found:
                row["tokens_per_second_of_prompt"] = spread([half / s for s in found[attention, "prompt"]["seconds"]])
                row["cache_MB"] = cache_bytes[attention] / 1e6
            if (attention, 1000) in found:
                row["seconds_at_1000_to_at_50"] = versus(found[attention, 1000], found[attention, 50])
            yield row


def read(gpt, prompt):
    """The caches of all layers after `prompt`."""
    cache = [Cache(gpt.config.block_size) for _ in gpt.blocks]
    gpt(prompt, cache=cache)
    return cache


def continue_(gpt, prompt):
    """Draw 256 tokens."""
    deque(gpt.generate(prompt, 256), maxlen=0)


def one_more(gpt, token, cache, position):
    """Read and draw the token at `position`, and forget it again."""
    for layer in cache:
        layer.length = position
    pick(gpt(token, cache=cache)[:, -1])


# ---------------------------------------------------------------------------- prepare.py


def preparing(plan):
    """A row for bytes and for GPT-2's tokens of the standard library, and tiktoken's own batch encoding beside them."""
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
            found = in_turns(dataclasses.replace(plan, device=torch.device("cpu")), steps)
        base = found.get("tiktoken's own")
        for name, measures in found.items():
            row = {
                "tokens": name,
                "MB": (mb := Path("often.txt" if name == "bytes" else "once.txt").stat().st_size / 1e6),
            }
            row["MB_per_second"] = spread([mb / s for s in measures["seconds"]])
            yield row | ({"to_tiktoken": versus(base, measures)} if base and name != "bytes" else {})


# ---------------------------------------------------------------------------- how long to the same loss


RACES = {  # our preset and options; nanoGPT's options: those of its README
    "cpu": (
        "race.toml",
        "",
        "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
        "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0",
    ),
    "cuda": ("gpu.toml", "--max_iters=2000", ""),
}


def race(plan, peer):
    """A row for us and one for nanoGPT: seconds of a run on tiny Shakespeare, start to exit, and the loss it got to.

    The loss is that of the best checkpoint over the whole validation split; nanoGPT saves by its 20 or 200 batches.
    """
    source, (preset, words, their_words) = Path("data/tinyshakespeare"), RACES[plan.device.type]
    if not source.exists():
        prepare("shakespeare")
    with tempfile.TemporaryDirectory() as folder:
        nanogpt = Path(
            shutil.copytree(peer, Path(folder, "nanogpt"), ignore=shutil.ignore_patterns("out*", ".git", "*.bin"))
        )
        data = nanogpt / "data/shakespeare_char"
        meta = json.loads((source / "meta.json").read_text(encoding="utf-8"))
        if meta["tokenizer"] != "bytes":
            raise UsageError(f"{source} is not in bytes: python prepare.py shakespeare")
        text = np.concatenate([np.fromfile(source / f"{part}.bin", meta["dtype"]) for part in ("train", "val")])
        text.astype(np.uint8).tofile(data / "input.txt")
        call([sys.executable, "prepare.py"], data)
        theirs = [sys.executable, "train.py", "config/train_shakespeare_char.py", *their_words.split()]
        seconds, losses = {"nanodiff": [], "nanoGPT": []}, {"nanodiff": [], "nanoGPT": []}
        for r in tqdm(range(rounds := min(plan.repetitions, 3)), "races", **BAR):
            out = Path(folder, f"ours-{r}")
            ours = [sys.executable, ROOT / "train.py", ROOT / "config" / preset, *words.split()]
            ours += ["--dataset=tinyshakespeare", f"--seed={r + 1}", f"--out_dir={out}", f"--device={plan.device.type}"]
            for who, command, cwd in (("nanodiff", ours, None), ("nanoGPT", theirs, nanogpt)):
                seconds[who].append(call(command, cwd))
            losses["nanodiff"].append(load(out / "best.pt")["best"]["val_loss"])
            losses["nanoGPT"].append(peer_loss(plan, nanogpt / "out-shakespeare-char/ckpt.pt", data / "val.bin"))
    for who in seconds:
        row = {"who": who, "runs": rounds, "seconds": spread(seconds[who]), "val_loss": spread(losses[who])}
        ratios = [mine / theirs for mine, theirs in zip(seconds[who], seconds["nanoGPT"], strict=True)]
        yield row | {"seconds_to_nanogpt": spread(ratios), "worst_val_loss": max(losses[who])}


def call(command, folder):
    """Seconds that `command` takes, start to exit, in `folder`. Raises UsageError with its last words if it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no word").split("\n")[-1]
        raise UsageError(f"{' '.join(map(str, command))}: exit {done.returncode}, {last}")
    return time.perf_counter() - started


def peer_loss(plan, checkpoint, val):
    """Loss of nanoGPT's checkpoint over all of its val.bin, nats a token."""
    saved = torch.load(checkpoint, map_location=plan.device, weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):
        net = plan.peer.GPT(plan.peer.GPTConfig(**saved["model_args"])).to(plan.device)
    net.load_state_dict({name.removeprefix("_orig_mod."): weight for name, weight in saved["model"].items()})
    tokens = np.fromfile(val, np.uint16)
    with plan.amp:
        return evaluate(lambda x, y: net(x, y)[1], net, tokens, 24, saved["model_args"]["block_size"])


# ---------------------------------------------------------------------------- what is shown


def table(rows):
    """Markdown: a column for every key, in the order in which the rows bring them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[shown(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def shown(value):
    """A number in three digits, [lower quartile, median, upper quartile] as median (lower-upper)."""
    if isinstance(value, list):
        low, median, high = map(shown, value)
        return f"{median} ({low}-{high})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def look(name):
    """How a mechanism is drawn, in every figure: colour, marker and line tell it apart, also in grey."""
    i = [*ATTENTION, "nanoGPT"].index(name)
    return {"color": f"C{i}", "marker": "osD^x"[i % 5], "ls": ("-", "--", "-.", ":")[i % 4]}


def draw(path, title, rows):
    """Tokens a second, and memory, against T, both axes logarithmic: a line for every mechanism and path."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(11, 5), layout="constrained")
    mode = rows[-1]["mode"]
    for axes, key, label in zip(
        figure.subplots(1, 2), ("tokens_per_second", "MB"), ("tokens a second", "memory (MB)"), strict=True
    ):
        for what, way in dict.fromkeys((row["attention"], row["path"]) for row in rows):
            mine = [r for r in rows if (r["attention"], r["path"], r["mode"]) == (what, way, mode) and key in r]
            y = [np.median(r[key]) for r in mine]
            style = {**look(what), "ls": "-" if way == "fused" else ":"}
            axes.plot([r["T"] for r in mine], y, **style, ms=5, label=f"{what}, {way}")
        axes.set(xscale="log", yscale="log", xlabel="T (tokens in a window)", ylabel=label)
        axes.xaxis.set(major_locator=FixedLocator(sorted({row["T"] for row in rows})), minor_locator=NullLocator())
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(f"A training step, {mode}; {title}")
    write_figure(path, figure)


if __name__ == "__main__":
    run(bench)
