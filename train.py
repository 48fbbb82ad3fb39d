"""Train a GPT: `python train.py`, with a preset, with options, or train(GPTConfig(n_layer=1), max_iters=2) from Python.

On N GPUs: `torchrun --nproc_per_node=N train.py ...`, the same steps in less time. Of the N processes the first one,
rank 0, writes and prints.

A run is a function of its options and its seed: the batch and the dropout of a step are drawn from (seed, step) alone,
evaluation draws nothing. So a run stopped and resumed is the run never stopped, on a CPU bit for bit.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import pickle
import platform
import re
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from configurable import UsageError, nearest, run, to_toml
from model import GPT, GPTConfig
from prepare import Tokenizer, prepare


def train(
    model: GPTConfig,
    *,
    dataset: str = "stdlib",  # folder under data/ that prepare.py made; stdlib is made where it is missing
    batch_size: int = 12,  # windows of block_size tokens in a micro-batch
    gradient_accumulation_steps: int = 1,  # micro-batches in a step; N processes share them
    max_iters: int = 2000,  # steps
    warmup_iters: int = 100,  # steps in which the learning rate rises
    lr_decay_iters: int | None = None,  # step at which its cosine has come down to min_lr; none: max_iters
    learning_rate: float = 1e-3,  # its height
    min_lr: float = 0.0,  # its end
    weight_decay: float = 0.1,  # of the weights of Linear and Embedding, and of nothing else
    beta1: float = 0.9,  # AdamW's memory of gradients
    beta2: float = 0.95,  # AdamW's memory of their squares
    grad_clip: float | None = 1.0,  # the longest a gradient may be; none: any length
    eval_interval: int = 250,  # steps between evaluations; the first and the last step have one
    eval_tokens: int | None = None,  # tokens of val to evaluate on; none: all
    checkpoint_interval: int = 250,  # steps between checkpoints; the last step has one
    out_dir: str | None = None,  # folder of the run; none: out/<dataset>-<attention>
    init_from: str = "scratch",  # scratch, resume (the run in out_dir), or a checkpoint to take the weights of
    overwrite: bool = False,  # replace the run in out_dir
    seed: int = 1337,  # of weights, batches and dropout
    device: str = "auto",  # cpu, cuda, cuda:1, mps ...; auto: cuda where there is one, else cpu
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",  # of matrix products; auto: bfloat16 on CUDA that has it
    compile: Literal["auto"] | bool = "auto",  # torch.compile the model; auto: on CUDA
    deterministic: bool = False,  # on CUDA only kernels that give the same numbers every time, which are slower
):
    """Train a GPT on a dataset; checkpoints, metrics, options and a figure go to out_dir. Returns how it went."""
    options = locals().copy()
    options = {**dataclasses.asdict(options.pop("model")), **options}
    check(options)
    device = find_device(device)
    amp = find_amp(dtype, device)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    rank, n_ranks = join(device, gradient_accumulation_steps)
    with rank_0_first():
        folder, meta, tokens = load_dataset(dataset, device, model.block_size)
        check_record(folder, record := meta.get("record"), model.block_size, eval_tokens)
    model = dataclasses.replace(model, vocab_size=max(model.vocab_size, meta["vocab_size"]))
    out = Path(out_dir or f"out/{folder.name}-{model.attention}")
    options |= {"vocab_size": model.vocab_size, "out_dir": out.as_posix()}

    with explain_failures(options), contextlib.ExitStack() as held, stop_signals() as stopped:
        torch.manual_seed(seed)
        gpt = GPT(model).to(device)
        optimizer = make_optimizer(gpt, weight_decay, (beta1, beta2))
        about = {"config": dataclasses.asdict(model), "options": options, "data": meta, **origin(folder)}
        with rank_0_first():
            state = begin(out, about, gpt, optimizer, held)
        n_windows = batch_size * gradient_accumulation_steps
        ours = slice(rank * n_windows // n_ranks, (rank + 1) * n_windows // n_ranks)  # of a step's windows
        decay_end = max_iters if lr_decay_iters is None else lr_decay_iters
        bits = meta["val"]["tokens"] / meta["val"]["bytes"] / math.log(2)  # nats a token -> bits a byte
        quiet = rank > 0 or not sys.stderr.isatty()
        bar = tqdm(total=max_iters, initial=state["step"], desc=out.name, unit="step", disable=quiet)
        held.enter_context(bar)
        say = (lambda text: None) if rank else functools.partial(print, flush=True) if quiet else bar.write
        metrics = held.enter_context(open(os.devnull if rank else out / "metrics.jsonl", "ab"))
        entered, first = time.perf_counter(), state["step"]
        began, saved = entered - state["seconds"], first or None
        net = share_gradients(gpt) if n_ranks > 1 else gpt
        example = batch(tokens["train"], batch_size, model.block_size, seed, 0, record)
        loss_of, how = make_fast(net, compile, amp, example)
        alone = net.no_sync if n_ranks > 1 else contextlib.nullcontext
        where = f"{n_ranks} x {name_of(device)}" if n_ranks > 1 else name_of(device)
        say(f"{out}: {model.attention}, {gpt.n_params():,} parameters, {folder.name}, {where}, {how}")
        while True:
            row = {"step": (step := state["step"])}
            stop = over_ranks(max(stopped, default=0), dist.ReduceOp.MAX)
            last = step >= max_iters and not stop
            evaluates = last or (step % eval_interval == 0 and not stop)
            saves = last or stop or step % checkpoint_interval == 0
            if (evaluates or saves) and not is_finite(gpt):
                raise astray(step, "the update before it left weights that are nan or inf", out, saved)
            if evaluates:
                with amp:
                    val = evaluate(loss_of, gpt, tokens["val"], batch_size, model.block_size, eval_tokens, record)
                if not math.isfinite(val):
                    raise astray(step, f"validation loss {val}", out, saved)
                row |= {"val_loss": val, "val_bits_per_byte": val * bits, **watched(gpt)}
                say(f"step {step}: val {val:.4f} nats a token, {val * bits:.4f} bits a byte")
                state["seconds"] = time.perf_counter() - began
                if state["best"] is None or val < state["best"]["val_loss"]:
                    state["best"] = dict(row)
                    if rank == 0:
                        save(out / "best.pt", {**about, **state, "model": gpt.state_dict()})
            if saves:
                state["seconds"] = time.perf_counter() - began
                learned = {"model": gpt.state_dict(), "optimizer": optimizer.state_dict()}
                if rank == 0:
                    save(out / "ckpt.pt", {**about, **state, **learned})
                saved = step
            if last or stop:
                break

            started = time.perf_counter()
            lr = schedule(step, learning_rate, min_lr, warmup_iters, decay_end)
            for group in optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))  # for dropout
            x, y = batch(tokens["train"], n_windows, model.block_size, seed, step, record)
            loss = gradient(loss_of, x[ours].to(device), y[ours].to(device), batch_size, amp, alone).item()
            loss = over_ranks(loss, dist.ReduceOp.SUM) / n_ranks
            norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), grad_clip or math.inf).item()
            if not math.isfinite(loss + norm):
                what = f"loss {loss}, gradient norm {norm} at learning rate {lr:.3g}: stopped before the update"
                raise astray(step, what, out, saved)
            optimizer.step()
            optimizer.zero_grad()
            now = time.perf_counter()
            speed = x.numel() / (now - started)
            row |= {"train_loss": loss, "learning_rate": lr, "grad_norm": norm, "tokens_per_second": round(speed)}
            metrics.write(to_line(row))
            metrics.flush()
            state["step"] += 1
            bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
            if bar.disable and step and step % 50 == 0:
                pace = (now - entered) / (step + 1 - first)  # seconds a step, evaluations included
                left = tqdm.format_interval(pace * (max_iters - step - 1))
                say(f"step {step}: loss {loss:.3f}, {x.numel() / pace:,.0f} tokens/s on average, {left} left")
        if last:
            metrics.write(to_line(row))

    if rank == 0:
        draw(out, f"{folder.name} ({meta['tokenizer']}), seed {seed}", gpt)
    if dist.is_initialized():
        over_ranks(0, dist.ReduceOp.MAX)  # all leave together: torchrun ends the others when one is gone
        dist.destroy_process_group()
    if not last:
        say(f"stopped at step {step}, and saved. Go on: python train.py {out}/config.toml --init_from=resume")
        sys.exit(128 + stop)
    best = state["best"]
    scores = f"{best['val_loss']:.4f} nats a token, {best['val_bits_per_byte']:.4f} bits a byte"
    say(f"best val {scores}, at step {best['step']}; {state['seconds']:.0f} s. Sample it: python sample.py {out}")
    return {"out_dir": str(out), "val_loss": val, "best": best, "seconds": state["seconds"]}


def begin(out, about, gpt, optimizer, held):
    """Fill gpt and optimizer, and make the folder `out` ready for the run `about`; returns the state it begins in.

    The folder is this process's until the ExitStack `held` is closed.
    """
    state, rows, options = {"step": 0, "seconds": 0.0, "best": None}, [], about["options"]
    if resumed := options["init_from"] == "resume":
        old = go_on(out, about, gpt, optimizer)
        state = {name: old[name] for name in state}
        rows = [row for row in read_metrics(out / "metrics.jsonl") if row["step"] < state["step"]]
        if missing := state["step"] - len({row["step"] for row in rows}):
            print(f"{out}/metrics.jsonl lacks {missing} of the {state['step']} steps so far, or cannot be read there")
    else:
        start(out, about, gpt)
    options["overwrite"] = False
    if is_follower():
        return state
    held.enter_context(alone_in(out))
    for name in () if resumed else RUN_FILES:
        (out / name).unlink(missing_ok=True)
    write_whole(out / "config.toml", lambda file: file.write(to_toml(options).encode()))
    write_whole(out / "metrics.jsonl", lambda file: file.writelines(map(to_line, rows)))
    return state


def start(out, about, gpt):
    """Give gpt the weights that init_from names. Raises UsageError where a new run cannot begin in `out`."""
    options = about["options"]
    if is_follower():
        return  # rank 0 was here before, and DistributedDataParallel sends everyone its weights
    if not options["overwrite"] and any((out / name).exists() for name in RUN_FILES):
        raise UsageError(f"{out} holds a run: --init_from=resume goes on with it, --overwrite=true replaces it")
    if (source := options["init_from"]) != "scratch":
        if not os.path.exists(source):
            hint = nearest(source, ("scratch", "resume"))
            raise UsageError(f"init_from={source}: must be scratch, resume or a checkpoint{hint}")
        if out.resolve() in (Path(source).resolve(), *Path(source).resolve().parents):
            raise UsageError(
                f"init_from={source} lies in out_dir={out}, which would be emptied: choose another --out_dir"
            )
        old = load(source, gpt.device)
        refuse_other(f"cannot start from {source}", old, about, WEIGHTS_DEPEND_ON)
        fill(gpt, old, source)


def go_on(out, about, gpt, optimizer):
    """Fill gpt and optimizer from the run in `out`; returns its checkpoint. Raises UsageError if it is another run."""
    old, options = load(out / "ckpt.pt", gpt.device), about["options"]
    best = old.get("best", "")
    if wrong := unlike(old, RESUMABLE, "it") or (best is not None and unlike(best, BEST, "best")):
        raise UsageError(f"cannot resume {out}: {wrong}")
    refuse_other(f"cannot resume {out}", old, about, ("block_size", *WEIGHTS_DEPEND_ON, "train.bin", "val.bin"))
    fill(gpt, old, out / "ckpt.pt")
    ours = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(old["optimizer"])
        for p in gpt.parameters() if old["step"] else ():
            moments = optimizer.state[p]
            if not p.shape == moments["exp_avg"].shape == moments["exp_avg_sq"].shape or moments["step"].shape:
                raise ValueError("moments of another shape")  # which a fused step would read beyond their end
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"{out}/ckpt.pt has no state of this optimizer: {type(error).__name__}, {error}") from None
    for group, settings in zip(optimizer.param_groups, ours, strict=True):
        group.update(settings)  # weight decay and betas are this run's, not the checkpoint's
    options["init_from"] = old["options"]["init_from"]
    before = old["options"] | {name: options[name] for name in ("out_dir", "overwrite", "device")}
    changed = [f"{k} {before.get(k)} -> {v}" for k, v in options.items() if before.get(k) != v]
    if changed and not is_follower():
        print(f"{out} goes on with other options: {', '.join(changed)}")
    return old


# ---------------------------------------------------------------------------- options


def check(options):
    """Raises UsageError for a number out of range."""
    whole, real = "max_iters warmup_iters lr_decay_iters", "learning_rate min_lr weight_decay"
    counts = "batch_size gradient_accumulation_steps eval_interval eval_tokens checkpoint_interval"
    for names, least, below in ((f"{whole} {real}", 0, math.inf), (counts, 1, math.inf), ("beta1 beta2", 0, 1)):
        for name in names.split():
            if (value := options[name]) is not None and not least <= value < below:
                end = f"less than {below}" if below < math.inf else "finite"
                raise UsageError(f"{name}={value}: must be at least {least} and {end}")
    for name in ("dataset", "out_dir", "init_from"):
        if not (options[name] or "").isprintable():  # config.toml could not say it
            raise UsageError(f"{name}={options[name]!r}: must be text without control characters")
    if not 0 <= options["seed"] < 2**63:
        raise UsageError(f"seed={options['seed']}: must be at least 0 and less than 2^63")
    if options["grad_clip"] is not None and not options["grad_clip"] > 0:
        raise UsageError(f"grad_clip={options['grad_clip']}: must be more than 0; none leaves gradients as they are")


def find_device(device):
    """The torch.device of that name, tried out; "auto" is CUDA where there is one, else the CPU. Raises UsageError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # under torchrun each process has its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = torch.ones(1, device=device)
        assert one.item() == 1, "it does not compute"
        return one.device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(f"device={device}: {reason}; auto, cpu, cuda, cuda:1 and mps are examples") from None


def find_amp(dtype, device):
    """The autocast of `dtype`; "auto" is bfloat16 on CUDA that has it, else float32 (on CUDA its products are TF32)."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        if dtype == "auto" and torch.cuda.is_bf16_supported(including_emulation=False):
            dtype = "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def name_of(device):
    """What a person calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {(n := torch.get_num_threads())} thread{'s' * (n > 1)}"


def make_fast(net, compile, amp, example):
    """(net, or its compiled twin if that computes the loss of `example`, a pair BT; which of the two it is)."""
    device = next(net.parameters()).device
    if compile is False or (compile == "auto" and device.type != "cuda"):
        return net, "eager"
    try:
        fast = torch.compile(net)
        with amp:
            loss = fast(*(z.to(device) for z in example))
        loss.backward()
        return fast, "compiled"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C++ compiler, an old GPU: whatever it is, the plain model runs
        reason = str(error).strip().partition("\n")[0]
        if not is_follower():
            print(f"torch.compile failed ({type(error).__name__}: {reason}); going on without it")
        return net, "eager"
    finally:
        net.zero_grad()


def is_finite(gpt):
    """Whether every weight is a number, not nan or inf."""
    return all(p.isfinite().all() for p in gpt.parameters())


def astray(step, what, out, saved):
    """The UsageError for a run that computes what are no numbers any more."""
    kept = "nothing was saved" if saved is None else f"{out}/ckpt.pt is the last good save, of step {saved}"
    return UsageError(f"step {step}: {what}. Lower learning_rate or raise warmup_iters; {kept}")


@contextlib.contextmanager
def explain_failures(options):
    """Turns running out of memory or disk into a UsageError that says what to halve, and what is left."""
    try:
        yield
    except BrokenPipeError:  # of the terminal, not of the disk
        raise
    except OSError as error:
        out = options["out_dir"]
        raise UsageError(
            f"cannot write {error.filename or out}: {error.strerror}; what was saved in {out} is whole"
        ) from None
    except (RuntimeError, MemoryError, ValueError, OverflowError, TypeError) as error:
        plain = not isinstance(error, MemoryError | torch.OutOfMemoryError)
        if plain and not re.search("allocate|buffer size|[oO]verflow|too big|too large|allowed dim", str(error)):
            raise  # that was what CPUs and numpy say
        raise UsageError(
            f"out of memory: halve batch_size={options['batch_size']} (and double "
            f"gradient_accumulation_steps={options['gradient_accumulation_steps']}: the same batch in smaller parts), "
            f"block_size={options['block_size']} or n_embd={options['n_embd']}"
        ) from None


# ---------------------------------------------------------------------------- several processes


def join(device, gradient_accumulation_steps):
    """(rank, number) of the processes that torchrun started, once they found each other; (0, 1) without it."""
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal() or not (n_ranks := int(said)):
        raise UsageError(f"WORLD_SIZE={said}: torchrun sets it to the number of processes; alone, unset it")
    if gradient_accumulation_steps % n_ranks:
        raise UsageError(
            f"gradient_accumulation_steps={gradient_accumulation_steps}: {n_ranks} processes share a step's "
            f"micro-batches, so it must be a multiple of {n_ranks}"
        )
    if n_ranks == 1:
        return 0, 1
    if unset := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise UsageError(f"WORLD_SIZE={said} without {', '.join(sorted(unset))}: start several processes by torchrun")
    if device.type == "cuda":
        if device.index != int(os.environ["LOCAL_RANK"]):
            raise UsageError(f"device={device}: under torchrun each process takes its own, so give cuda or auto")
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), n_ranks


def share_gradients(gpt):
    """`gpt`, its gradients averaged over all processes as they are computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for broadcast_buffers
        return DistributedDataParallel(gpt, broadcast_buffers=False, gradient_as_bucket_view=True)


def is_follower():
    """Whether this is one of several processes, and not rank 0."""
    return dist.is_initialized() and dist.get_rank() > 0


@contextlib.contextmanager
def rank_0_first():
    """What rank 0 does inside is done before the others come in: it makes files, they read them.

    Where it fails they leave without a word: it has said what is wrong.
    """
    failed = 1
    try:
        if is_follower() and over_ranks(0, dist.ReduceOp.MAX):
            sys.exit(2)
        yield
        failed = 0
    finally:
        if not is_follower():
            over_ranks(failed, dist.ReduceOp.MAX)


def over_ranks(value, how):
    """The sum or maximum (`how`) of a number over all processes."""
    if not dist.is_initialized():
        return value
    number = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
    dist.all_reduce(number, how)
    return number.item()


# ---------------------------------------------------------------------------- data


IN_MEMORY = 1 << 28  # tokens; a split larger than that stays on disk, memory-mapped


def load_dataset(dataset, device, block_size):
    """(folder, meta, {"train": tokens, "val": tokens}) of data/<dataset>. Raises UsageError."""
    folder = Path("data") / dataset
    if not (folder / "meta.json").exists() and len(Path(dataset).parts) > 1:
        folder = Path(dataset)  # data/stdlib, as a shell completes it
    if not (folder / "meta.json").exists():
        corpus, _, tokenizer = dataset.partition("-")
        if corpus != "stdlib":
            there = sorted(p.parent.name for p in Path("data").glob("*/meta.json"))
            have = f"there is {', '.join(there)}" if there else "there is none yet"
            raise UsageError(f"no dataset {folder}{nearest(dataset, there)}: {have}; python prepare.py makes one")
        folder = prepare("stdlib", tokenizer=tokenizer or "bytes", name=dataset)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        check_meta(meta)
        Tokenizer.thaw(frozen := frozen_tokenizer(folder), folder / "tokenizer.json")
        if frozen["name"] != meta["tokenizer"]:
            raise ValueError(f"tokenizer.json is of {frozen['name']}, meta.json of {meta['tokenizer']}")
        tokens = {part: load_split(folder, part, meta, device) for part in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder} is damaged ({type(error).__name__}: {error}); prepare it again") from None
    if len(tokens["train"]) <= block_size:
        raise UsageError(f"{folder} has {len(tokens['train'])} tokens to train on: too few for block_size={block_size}")
    return folder, meta, tokens


def check_record(folder, record, block_size, eval_tokens=None):
    """Raises UsageError where a model's windows are not the dataset's records, or none would be evaluated."""
    if record and record["length"] != block_size:
        length = record["length"]
        raise UsageError(f"{folder} is made of records of {length} tokens: block_size={block_size} must be {length}")
    if record and (eval_tokens or block_size) < block_size:
        raise UsageError(f"eval_tokens={eval_tokens}: {folder} is made of records of {block_size} tokens, give as many")


META = {"tokenizer": "", "vocab_size": 0, "dtype": "", "train": {"tokens": 0, "bytes": 0, "sha256": ""}}
META["val"] = META["train"]
NEEDLES = {"n_needles": 0, "n_queries": 0, "length": 0}


def check_meta(meta):
    """Raises ValueError, KeyError or TypeError for a meta.json that no prepare.py wrote."""
    if wrong := unlike(meta, META, "meta.json"):
        raise ValueError(wrong)
    for number in (meta["vocab_size"], *(meta[part][of] for part in ("train", "val") for of in ("tokens", "bytes"))):
        if not 0 < number < 2**48:
            raise ValueError(f"{number} is no number of tokens or bytes")
    if meta["dtype"] not in ("uint8", "uint16", "uint32"):
        raise ValueError(f"dtype {meta['dtype']} is none of uint8, uint16, uint32")
    record = meta.get("record")
    if record is not None and not (record["scored"] and all(0 < i < record["length"] for i in record["scored"])):
        raise ValueError("no positions, or such as are in no record, are scored")
    if (task := meta.get("needles")) is not None:
        if wrong := unlike(task, NEEDLES, "needles"):
            raise ValueError(wrong)
        if task.keys() != NEEDLES.keys() or not all(0 < number <= 2**16 for number in task.values()):
            raise ValueError("needles of which no context can be made")


def load_split(folder, part, meta, device):
    """The tokens of train.bin or val.bin, in memory as a tensor on `device`, or memory-mapped where they are many."""
    path = folder / f"{part}.bin"
    tokens = np.memmap(path, meta["dtype"], "r")
    if len(tokens) != meta[part]["tokens"]:
        raise ValueError(f"{path.name} has {len(tokens)} tokens, meta.json says {meta[part]['tokens']}")
    if len(tokens) > IN_MEMORY:
        return tokens
    if hashlib.sha256(tokens).hexdigest() != meta[part]["sha256"]:
        raise ValueError(f"{path.name} has changed since meta.json was written")
    if (largest := tokens.max()) >= meta["vocab_size"]:
        raise ValueError(f"{path.name} has token {largest}, vocab_size is {meta['vocab_size']}")
    return torch.from_numpy(tokens.astype(np.int32)).to(device)


def gather(tokens, index):
    """tokens[index], int64, wherever the tokens live; index is a numpy array."""
    if isinstance(tokens, torch.Tensor):
        return tokens[torch.from_numpy(index).to(tokens.device)].long()
    return torch.from_numpy(tokens[index].astype(np.int64))


def batch(tokens, n, block_size, seed, step, record=None):
    """n windows and what follows each of their tokens, x and y BT: drawn from (seed, step) alone.

    A corpus of records has windows that are records (but never the last one), and y is −1 where a token does not count.
    """
    stride = block_size if record else 1
    draw = np.random.default_rng((seed, step))
    starts = stride * draw.integers((len(tokens) - block_size - 1) // stride + 1, size=(n, 1))
    windows = gather(tokens, starts + np.arange(block_size + 1))
    return windows[:, :-1].contiguous(), scored(windows[:, 1:], record)


def scored(y, record):
    """y BT, with −1 for every token of a record that is not among its `scored` positions."""
    if record is None:
        return y.contiguous()
    left_out = torch.ones(record["length"], dtype=torch.bool, device=y.device)
    left_out[[position - 1 for position in record["scored"]]] = False  # y begins with a record's second token
    return y.masked_fill(left_out, -1)


@torch.no_grad()
def evaluate(loss_of, gpt, tokens, batch_size, block_size, eval_tokens=None, record=None):
    """Mean loss, nats a token, over `tokens` in order: every one but the first is predicted once, in its window.

    Of a corpus of records only what counts in them.
    """
    size, end = batch_size * block_size, min(len(tokens) - 1, eval_tokens or len(tokens))
    rank, n_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = next(gpt.parameters()).device
    gpt.eval()
    total, count = 0.0, 0
    for start in range(rank * size, end, n_ranks * size):  # N processes take turns
        stop = min(start + size, end)
        part = gather(tokens, np.arange(start, stop + 1)).to(device)
        x, y = part[:-1], part[1:]
        if (missing := size - len(x)) > 0:  # the last batch has the shape of the others, so nothing is compiled anew
            x, y = (torch.nn.functional.pad(z, (0, missing), value=fill) for z, fill in ((x, 0), (y, -1)))
        x, y = x.view(batch_size, -1), scored(y.view(batch_size, -1), record)
        n = (y >= 0).sum().item()
        total += loss_of(x, y).item() * n if n else 0.0
        count += n
    gpt.train()
    return over_ranks(total, dist.ReduceOp.SUM) / over_ranks(count, dist.ReduceOp.SUM)


# ---------------------------------------------------------------------------- optimisation


def gradient(loss_of, x, y, batch_size, amp, alone=contextlib.nullcontext):
    """Mean loss over the windows x, y BT, its gradient added to .grad, computed `batch_size` windows at a time.

    All but the last are computed in the context `alone`, where processes keep their gradients to themselves.
    """
    total, parts = 0.0, list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    for i, (micro_x, micro_y) in enumerate(parts, 1):
        with alone() if i < len(parts) else contextlib.nullcontext():
            with amp:
                loss = loss_of(micro_x, micro_y) * (len(micro_x) / len(x))
            loss.backward()
        total += loss.detach()
    return total


def make_optimizer(gpt, weight_decay, betas):
    """AdamW that decays the weights of Linear and Embedding, by owner: λ, g and the norms' gains never decay."""
    owners = (m for m in gpt.modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding))
    decayed = {m.weight for m in owners}
    groups = [
        {"params": [p for p in gpt.parameters() if p in decayed], "weight_decay": weight_decay},
        {"params": [p for p in gpt.parameters() if p not in decayed], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda", "mps") for p in gpt.parameters())
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=fused)


def schedule(step, learning_rate, min_lr, warmup_iters, lr_decay_iters):
    """Learning rate of a step: linear up to learning_rate, then half a cosine down to min_lr."""
    if step < warmup_iters:
        return learning_rate * (step + 1) / warmup_iters
    if step >= lr_decay_iters:
        return min_lr
    done = (step - warmup_iters) / (lr_decay_iters - warmup_iters)
    return min_lr + (learning_rate - min_lr) * (1 + math.cos(math.pi * done)) / 2


@contextlib.contextmanager
def stop_signals():
    """A list that the first SIGINT, SIGTERM or SIGHUP is added to, for a loop to see; a second acts as it always does.

    One of several processes lists them all: torchrun passes on what the terminal has sent already. (Half a minute later
    it kills: what is not saved by then is lost.)
    """
    seen, before, several = [], {}, dist.is_initialized()

    def note(signum, frame):
        if not seen and not is_follower():
            hint = b"" if several else b"; once more stops at once, without saving"
            os.write(2, b"\nstopping after this step" + hint + b"\n")
        seen.append(signum)
        if not several:
            restore()

    def restore():
        for signum, handler in before.items():
            signal.signal(signum, handler)

    with contextlib.suppress(ValueError):  # outside the main thread there are no signals to take
        for signum in {getattr(signal, name, signal.SIGTERM) for name in ("SIGINT", "SIGTERM", "SIGHUP")}:
            if signal.getsignal(signum) != signal.SIG_IGN or signum == signal.SIGINT:  # nohup has SIGHUP ignored
                before[signum] = signal.signal(signum, note)
    try:
        yield seen
    finally:
        restore()


# ---------------------------------------------------------------------------- files of a run


@contextlib.contextmanager
def alone_in(out):
    """Holds the folder `out`, made where it is missing. Raises UsageError where another process that lives holds it."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "ab") as file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            raise UsageError(f"another process is training in {out}: wait, or choose another --out_dir") from None
        except OSError:  # a file system without locks
            print(f"{out} cannot be locked: see to it that no other process trains there")
        yield


def lock(file):
    """Lock an open file until it is closed, or its process is gone however that came. Raises OSError at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


RUN_FILES = ("ckpt.pt", "best.pt", "metrics.jsonl", "loss.png", "config.toml")
WEIGHTS_DEPEND_ON = ("attention", "vocab_size", "n_layer", "n_head", "n_embd", "tokenizer")


def refuse_other(what, old, new, names):
    """Raises UsageError that lists which of `names` differ between two checkpoints."""

    def said(about, name):
        if name.endswith(".bin"):
            return about["data"][name[:-4]]["sha256"][:12]
        return {**about["config"], "tokenizer": about["data"]["tokenizer"]}[name]

    if differences := [f"{n} was {said(old, n)}, is {said(new, n)}" for n in names if said(old, n) != said(new, n)]:
        raise UsageError(f"{what}: {'; '.join(differences)}")


CODE = [Path(__file__).with_name(name) for name in ("model.py", "train.py")]  # whose lines a run depends on


def frozen_tokenizer(folder):
    """What Tokenizer.freeze made of the dataset's tokenizer."""
    path = folder / "tokenizer.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"name": "bytes"}


def origin(folder):
    """Tokenizer, versions, commit and a sha256 of what computes a run, for a checkpoint to carry."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    return {
        "tokenizer": frozen_tokenizer(folder),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "commit": commit,
        "code": hashlib.sha256(b"".join(path.read_bytes() for path in CODE)).hexdigest(),
    }


def write_whole(path, write):
    """Let write(file) fill the file `path`: it is there whole or not at all, even after a power cut."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


CHECKSUM = b"nanodiff sha256 "  # begins the comment that ends the file: torch writes a zip, and a zip may have one


def save(path, checkpoint):
    """Write a checkpoint, whole or not at all: a file of torch.save, its own sha256 in the comment of the zip."""
    content = io.BytesIO()  # torch's own writing hides why a disk refused
    torch.save(checkpoint, content)
    content.seek(-2, os.SEEK_END)  # where a zip says how long its comment is
    content.write(struct.pack("<H", len(CHECKSUM) + 64))
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    content.write(CHECKSUM + digest.encode())
    write_whole(path, lambda file: file.write(content.getbuffer()))


def load(path, device="cpu"):
    """The checkpoint in the file `path`, or in its best.pt if it is a folder; nothing in it is executed.

    Raises UsageError where there is none, or its checksum is not that of its content; names a good one beside it.
    """
    path = Path(path, "best.pt") if os.path.isdir(path) else Path(path)
    try:
        return load_file(path, device)
    except UsageError as error:
        good = [other for other in sorted(path.parent.glob("*.pt")) if other != path and is_whole(other)]
        raise UsageError(f"{error}{f'; {good[0]} is whole' if good else ''}") from None


def is_whole(path):
    """Whether the file `path` is a checkpoint that can be loaded."""
    try:
        return bool(load_file(path))
    except UsageError:
        return False


def load_file(path, device="cpu"):
    """The checkpoint in the file `path`. Raises UsageError."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"no checkpoint {path}: {getattr(error, 'strerror', error)}") from None
    end = len(content) - len(CHECKSUM) - 64
    if end < 0 or content[end:-64] != CHECKSUM:
        raise UsageError(f"{path} is no checkpoint of train.py, or its end is missing")
    if hashlib.sha256(memoryview(content)[:end]).hexdigest().encode() != content[-64:]:
        raise UsageError(f"{path} is damaged: its checksum is not the one it was saved with")
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # a stranger's file raises what it likes
        reason = "it holds more than tensors, numbers and text"
        reason = reason if isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise UsageError(f"{path} is no checkpoint of train.py: {reason}") from None
    try:
        wrong = unlike(checkpoint, CHECKPOINT, "it") or check_meta(checkpoint["data"])
    except (ValueError, KeyError, TypeError) as error:
        wrong = f"its data: {error}"
    if wrong or checkpoint["step"] < 0:
        raise UsageError(f"{path} is no checkpoint of train.py: {wrong or 'its step is below 0'}")
    return checkpoint


CHECKPOINT = {"options": {"seed": 0, "dataset": ""}, "tokenizer": {"name": ""}, "model": {}, "step": 0, "data": {}}
CHECKPOINT["config"] = {"attention": ""} | dict.fromkeys(("block_size", "vocab_size", "n_layer", "n_head", "n_embd"), 0)
RESUMABLE = {"seconds": 0.0, "optimizer": {}, "options": {"init_from": ""}}
BEST = {"step": 0, "val_loss": 0.0, "val_bits_per_byte": 0.0}  # none before the first evaluation


def unlike(value, example, name):
    """What is missing in `value` or of another type than in `example`; "" where nothing is."""
    if not isinstance(value, type(example)):
        return f"{name} is of type {type(value).__name__}"
    parts = example if isinstance(example, dict) else {}
    if missing := parts.keys() - value.keys() if parts else ():
        return f"{name} has no {', '.join(sorted(missing))}"
    return next(filter(None, (unlike(value[key], part, key) for key, part in parts.items())), "")


def fill(gpt, checkpoint, path):
    """Give gpt the weights of the checkpoint from `path`. Raises UsageError where they do not fit or are no numbers."""
    try:
        gpt.load_state_dict(checkpoint["model"])
    except (RuntimeError, AttributeError) as error:
        raise UsageError(f"{path} is of another model.py: {' '.join(str(error).split())}") from None
    if not is_finite(gpt):
        raise UsageError(f"{path} has weights that are no numbers (nan or inf): its run went astray")


def load_model(path, device="cpu"):
    """(model ready to use, checkpoint) of a file of `save`, or of a run's folder. Raises UsageError."""
    checkpoint = load(path, device)
    try:
        gpt = GPT(GPTConfig(**checkpoint["config"])).to(device).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is of another model.py: {' '.join(str(error).split())}") from None
    fill(gpt, checkpoint, path)
    return gpt, checkpoint


def to_line(row):
    return (json.dumps(row) + "\n").encode()


def read_metrics(path):
    """The rows of metrics.jsonl, without what is no row: one cut off, or written by another hand."""
    rows = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                if is_row(row := json.loads(line)):
                    rows.append(row)
    return rows


def is_row(row):
    """Whether `row` is {"step": 3, name: number, or list of lists of them ...}."""

    def is_numbers(value):
        return all(map(is_numbers, value)) if isinstance(value, list) else math.isfinite(value)

    try:
        return isinstance(row["step"], int) and all(map(is_numbers, row.values()))
    except (TypeError, KeyError, AttributeError, OverflowError):
        return False


def watched(gpt):
    """{"lam": [layer 0's, ...]} or {"g": ...}: the learned numbers that the mechanism names in `watch`."""
    attentions = [block.attention for block in gpt.blocks]
    return {name: [getattr(a, name).flatten().tolist() for a in attentions] for name in attentions[0].watch}


def draw(out, title, gpt):
    """loss.png: the losses of metrics.jsonl against steps."""
    from matplotlib.figure import Figure  # no pyplot: a notebook keeps its own backend

    rows = read_metrics(out / "metrics.jsonl")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, style in (
        ("train_loss", {"lw": 0.6, "color": "0.6"}),
        ("val_loss", {"marker": "o", "ms": 4, "color": "k", "ls": ""}),
    ):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot([x for x, _ in points], [y for _, y in points], label=name.partition("_")[0], **style)
    size = f"{gpt.config.n_layer} layers of {gpt.config.n_embd}, {gpt.n_params() / 1e6:.2f}M parameters"
    axes.set(
        xlabel="step",
        ylabel="loss (nats a token)",
        title=f"{title}\n{gpt.config.attention}, {size}".replace("$", r"\$"),
    )
    axes.legend()
    write_figure(out / "loss.png", figure)


def write_figure(path, figure):
    """figure.png, whole or not at all; letters that its font lacks are boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def preset(values):
    """The preset for the device that `values` names or that there is."""
    device = values.get("device", "auto")
    name = "cpu" if device == "cpu" or (device == "auto" and not torch.cuda.is_available()) else "gpu"
    return os.path.relpath(Path(__file__).parent / "config" / f"{name}.toml")


if __name__ == "__main__":
    run(train, preset=preset)
