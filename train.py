"""Train a GPT: `python train.py`, with presets and options, or train(GPTConfig(n_layer=1), max_iters=2) from Python.

The options of a run, its seed among them, determine it: the batch and the dropout of a step are drawn from (seed, step)
alone, and evaluation draws nothing. So a run that was stopped and resumed is the run that never stopped; on a CPU with
as many threads, bit for bit.

On N GPUs `torchrun --nproc_per_node=N train.py ...` takes the same steps in less time.
"""

import dataclasses
import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

import configurable
import ideas  # noqa: F401  adds the mechanisms of ideas/ to --attention
from configurable import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed, UsageError, check_ranges
from model import GPT, GPTConfig
from plumbing import ranks
from plumbing.dataset import load_dataset
from plumbing.machine import (
    AdamW,
    compiled,
    device_name,
    explain_failures,
    find_autocast,
    find_device,
    stop_signals,
    use_deterministic_kernels,
)
from plumbing.nanogpt import OPTIONS_OF_NANOGPT
from plumbing.run import ROOT, Run


def train(
    config: GPTConfig,
    *,
    dataset: str = "stdlib",  # folder under data/ that prepare.py made; stdlib, Python's own source, is made if missing
    batch_size: PositiveInt = 12,  # windows (of block_size tokens) per forward pass
    gradient_accumulation_steps: PositiveInt = 1,  # forward passes per step, shared by torchrun's processes
    max_iters: NonNegativeInt = 2000,  # training steps; to try something quickly, also give --eval_tokens=1000
    warmup_iters: NonNegativeInt = 100,  # steps of linear warm-up of the learning rate
    lr_decay_iters: NonNegativeInt | None = None,  # step at which the learning rate reaches min_lr; none: max_iters
    learning_rate: NonNegativeFloat = 1e-3,  # highest learning rate, reached after the warm-up
    min_lr: NonNegativeFloat = 0.0,  # learning rate from lr_decay_iters on
    weight_decay: NonNegativeFloat = 0.1,  # AdamW's weight decay, for the weights of Linear and Embedding only
    beta1: Annotated[float, "at least 0 and less than 1"] = 0.9,  # AdamW's decay rate of the mean of gradients
    beta2: Annotated[float, "at least 0 and less than 1"] = 0.95,  # AdamW's decay rate of the mean of squared gradients
    grad_clip: PositiveFloat | None = 1.0,  # larger gradient norms are scaled down to this; none: never
    eval_interval: PositiveInt = 250,  # steps between evaluations; also one before the first step and one at the end
    eval_tokens: PositiveInt | None = None,  # evaluate on the first so many validation tokens; none: all
    checkpoint_interval: PositiveInt = 250,  # steps between checkpoints; also one when the run ends or is stopped
    out_dir: str | None = None,  # folder of the run; none: out/<dataset>-<attention>
    init_from: str = "scratch",  # scratch, resume (continue the run in out_dir), or a run or .pt file to start from
    overwrite: bool = False,  # delete the run that is in out_dir, and begin anew
    seed: Seed = 1337,  # seed of the first weights, the batches and the dropout
    device: str = "auto",  # cpu, cuda, cuda:1, mps ...; auto: cuda where there is one, else cpu
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",  # number format; on CUDA float32 is TF32 and auto bfloat16
    compile: Literal["auto"] | bool = "auto",  # use torch.compile; auto: on CUDA
    deterministic: bool = False,  # on CUDA use only kernels that give the same numbers every time, which are slower
):
    """Train a GPT on a dataset; checkpoints, metrics, options and a figure go to out_dir. Returns how it went."""
    options = locals().copy()  # the first line: only the parameters have names yet
    options = {**dataclasses.asdict(options.pop("config")), **options}
    check_options(options)
    device = find_device(device)
    if deterministic:
        use_deterministic_kernels()
    autocast = find_autocast(dtype, device)
    ranks.connect(device, gradient_accumulation_steps)
    with ranks.rank_0_first():
        data = load_dataset(dataset, device, config.block_size, eval_tokens)
    config = dataclasses.replace(config, vocab_size=max(config.vocab_size, data.meta["vocab_size"]))
    out = Path(out_dir or f"out/{data.name}-{config.attention}")
    options |= {"vocab_size": config.vocab_size, "out_dir": out.as_posix()}
    windows_per_step = batch_size * gradient_accumulation_steps
    decay_end = max_iters if lr_decay_iters is None else lr_decay_iters

    with explain_failures(options), stop_signals() as signals, Run(out, options, config, data) as run:
        torch.manual_seed(seed)
        gpt = GPT(config).to(device)
        optimizer = make_optimizer(gpt, weight_decay, (beta1, beta2))
        step, best = run.begin(gpt, optimizer)  # from scratch, from a checkpoint, or where the run was stopped
        net = ranks.share_gradients(gpt)  # gpt, or gpt in DistributedDataParallel
        loss_of, mode = compiled(net, compile, autocast, example=batch(data.train, batch_size, seed, 0))
        run.say(f"{out}: {config.attention}, {gpt.n_params():,} parameters, {data.name}, {device_name(device)}, {mode}")

        while True:
            stop = ranks.largest(max(signals, default=0))  # the number of the signal that asks us to stop, or 0
            done = step >= max_iters
            row = {"step": step}  # a line of metrics.jsonl

            if (done or step % eval_interval == 0) and not stop:  # who presses Ctrl-C does not want to wait
                val = evaluate(loss_of, gpt, data.val, batch_size, eval_tokens, autocast)
                run.check_finite(step, f"validation loss {val}", val)
                row |= {"val_loss": val, "val_bits_per_byte": val * data.bits_per_nat, **watched(gpt)}
                result = f"{val:.4f} nats/token, {row['val_bits_per_byte']:.4f} bits/byte"
                if data.val.record:  # a task, whose answers are right or wrong
                    row["accuracy"] = evaluate(accuracy_of(gpt), gpt, data.val, batch_size, eval_tokens, autocast)
                    result += f", accuracy {row['accuracy']:.1%}"
                run.say(f"step {step}: val {result}")
                if best is None or val < best["val_loss"]:
                    best = dict(row)
                    run.save("best.pt", step, gpt, best=best)
            if done or stop or step % checkpoint_interval == 0:
                run.save("ckpt.pt", step, gpt, best=best, optimizer=optimizer.state_dict())
            if done or stop:
                break

            started = time.perf_counter()
            lr = schedule(step, learning_rate, min_lr, warmup_iters, decay_end)
            for group in optimizer.param_groups:
                group["lr"] = lr
            seed_dropout(seed, step, device)
            x, y = (ranks.share(z).to(device) for z in batch(data.train, windows_per_step, seed, step))
            loss = forward_backward(loss_of, net, x, y, batch_size, autocast)
            norm = clip_grad_norm_(gpt.parameters(), grad_clip or math.inf).item()
            message = f"loss {loss}, gradient norm {norm} at learning rate {lr:.3g}: stopped before the update"
            run.check_finite(step, message, loss, norm)
            optimizer.step()
            optimizer.zero_grad()
            speed = round(windows_per_step * config.block_size / (time.perf_counter() - started))
            row |= {"train_loss": loss, "learning_rate": lr, "grad_norm": norm, "tokens_per_second": speed}
            run.log(row)
            step += 1

        seconds = run.seconds
        if not stop:
            run.log(row)  # the evaluation after the last step
        run.plot(gpt)

    ranks.disconnect()
    if stop:
        go_on = f"python train.py {shlex.quote(f'{out}/config.toml')} --init_from=resume"
        run.say(f"stopped at step {step}, and saved. Go on: {go_on}")
        sys.exit(128 + stop)  # as shells do
    result = f"{best['val_loss']:.4f} nats/token, {best['val_bits_per_byte']:.4f} bits/byte"
    sample = f"python sample.py {shlex.quote(str(out))}"
    run.say(f"best val {result}, at step {best['step']}; {seconds:.0f} s. Sample it: {sample}")
    return {"out_dir": str(out), "val_loss": val, "best": best, "seconds": seconds}


# ---------------------------------------------------------------------------- batches


def batch(split, n, seed, step):
    """n windows of a split, drawn from (seed, step) alone: tokens x BT, and the token after each of them, y BT."""
    numbers = np.random.default_rng((seed, step)).integers(split.n_windows, size=n)
    return split.windows(numbers)


def seed_dropout(seed, step, device):
    """Dropout, too, is drawn from (seed, step); each process has its own."""
    seed_of = torch.default_generator if device.type == "cpu" else torch  # torch's own takes 1 ms where CUDA is missing
    seed_of.manual_seed(int(np.random.SeedSequence((seed, step, ranks.rank())).generate_state(1)[0]))


# ---------------------------------------------------------------------------- losses


def forward_backward(loss_of, net, x, y, batch_size, autocast):
    """Mean loss over the windows x, y BT of all processes; its gradient is left in .grad.

    It is computed batch_size windows at a time, and processes exchange gradients once, at the end.
    """
    total, parts = 0.0, list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    for i, (micro_x, micro_y) in enumerate(parts, 1):
        net.require_backward_grad_sync = i == len(parts)  # DistributedDataParallel: exchange gradients now
        with autocast:
            loss = loss_of(micro_x, micro_y) * (len(micro_x) / len(x))
        loss.backward()
        total += loss.detach()
    return ranks.total(total.item()) / ranks.count()


@torch.no_grad()
def evaluate(loss_of, gpt, split, batch_size, eval_tokens, autocast):
    """Mean loss over a split in order, in nats/token: each token but the first is predicted once, in its window."""
    gpt.eval()
    total, count = 0.0, 0
    for i, (x, y) in enumerate(split.in_order(batch_size, eval_tokens)):
        n = (y >= 0).sum().item()  # targets of −1 do not count
        if n and i % ranks.count() == ranks.rank():  # processes take turns
            with autocast:
                total += loss_of(x.to(gpt.device), y.to(gpt.device)).item() * n
            count += n
    gpt.train()
    return ranks.total(total) / ranks.total(count)


def accuracy_of(gpt):
    """A function of x, y BT: the share of the targets y that are the likeliest token. To be given to `evaluate`."""
    return lambda x, y: (gpt(x).argmax(-1) == y)[y >= 0].float().mean()


def watched(gpt):
    """{"lam": [layer 0's, ...]} or {"g": ...}: the learned numbers that the mechanism names in `watch`."""
    attentions = [block.attention for block in gpt.blocks]
    return {name: [getattr(a, name).flatten().tolist() for a in attentions] for name in attentions[0].watch}


# ---------------------------------------------------------------------------- optimisation


def make_optimizer(gpt, weight_decay, betas):
    """AdamW that decays the weights of Linear and Embedding, and nothing else: not λ, g or the gains of norms."""
    layers = (m for m in gpt.modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding))
    decayed = {m.weight for m in layers}
    groups = [
        {"params": [p for p in gpt.parameters() if p in decayed], "weight_decay": weight_decay},
        {"params": [p for p in gpt.parameters() if p not in decayed], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda", "mps") for p in gpt.parameters())
    return AdamW(groups, lr=0.0, betas=betas, fused=fused)  # the loop sets lr at each step


def schedule(step, learning_rate, min_lr, warmup_iters, lr_decay_iters):
    """Learning rate of a step: linear up to learning_rate, then half a cosine down to min_lr."""
    if step < warmup_iters:
        return learning_rate * (step + 1) / warmup_iters
    if step >= lr_decay_iters:
        return min_lr
    progress = (step - warmup_iters) / (lr_decay_iters - warmup_iters)
    return min_lr + (learning_rate - min_lr) * (1 + math.cos(math.pi * progress)) / 2


# ---------------------------------------------------------------------------- the command line


def check_options(options):
    """Raises UsageError for a number out of range, or a text with control characters."""
    check_ranges(train, options)
    for name in ("dataset", "out_dir", "init_from"):
        if not (options[name] or "").isprintable():
            raise UsageError(f"{name}={options[name]!r}: must be text without control characters")


def preset(values):
    """The preset for the device that the options `values` name or, for auto, for the device found."""
    device = values.get("device", "auto")
    name = "cpu" if device == "cpu" or (device == "auto" and not torch.cuda.is_available()) else "gpu"
    return os.path.relpath(ROOT / "config" / f"{name}.toml")


if __name__ == "__main__":
    configurable.run(train, preset=preset, hints=OPTIONS_OF_NANOGPT)
