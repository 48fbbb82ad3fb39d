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
from configurable import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, Seed
from model import GPT, GPTConfig
from plumbing import machine
from plumbing.run import ROOT, Run, provenance
from prepare import load_dataset, to_device


@configurable.with_plain_values
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
    beta1: Annotated[float, Range(ge=0, lt=1)] = 0.9,  # AdamW's decay rate of the mean of gradients
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.95,  # AdamW's decay rate of the mean of squared gradients
    grad_clip: PositiveFloat | None = 1.0,  # larger gradient norms are scaled down to this; none: never
    eval_interval: PositiveInt = 250,  # steps between evaluations; also one before the first step and one at the end
    eval_tokens: PositiveInt | None = None,  # evaluate on the first so many validation tokens; none: all
    checkpoint_interval: PositiveInt = 250,  # steps between checkpoints; also one when the run ends or is stopped
    out_dir: str | None = None,  # folder of the run; none: out/<dataset>-<attention>
    init_from: str = "scratch",  # scratch, resume (continue the run in out_dir), or a run or .pt file to start from
    overwrite: bool = False,  # delete the run that is in out_dir, and begin anew
    seed: Seed = 1337,  # seed of the initial weights, the batches and the dropout
    device: str = "auto",  # cpu, cuda, cuda:1, mps ...; auto: cuda where there is one, else cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",  # auto: bfloat16 on CUDA, or float16
    compile: Literal["auto"] | bool = "auto",  # use torch.compile; auto: on CUDA
    deterministic: bool = False,  # on CUDA use only kernels that give the same numbers every time, which are slower
):
    """Train a GPT on a dataset; checkpoints, metrics, options and a figure go to out_dir. Returns how it went."""
    options = locals().copy()  # the first line: only the parameters have names yet
    options = {**dataclasses.asdict(options.pop("config")), **options}
    device = machine.find_device(device)
    if deterministic:
        machine.use_deterministic_kernels()
    autocast, scaler = machine.find_autocast(dtype, device)
    machine.connect(device, gradient_accumulation_steps)
    with machine.rank_0_first():
        data = load_dataset(dataset, device, config.block_size, eval_tokens)
    config = dataclasses.replace(config, vocab_size=max(config.vocab_size, data.meta["vocab_size"]))
    out = Path(out_dir or f"out/{data.name}-{config.attention}")
    options |= {"vocab_size": config.vocab_size, "out_dir": out.as_posix()}
    windows_per_step = batch_size * gradient_accumulation_steps
    decay_end = max_iters if lr_decay_iters is None else lr_decay_iters

    with machine.explained_failures(options), machine.stop_signals() as signals, Run(out, options) as run:
        torch.manual_seed(seed)
        gpt = GPT(config).to(device)
        optimizer = make_optimizer(gpt, weight_decay, (beta1, beta2))
        step, best = 0, None
        steps_under_way = []  # (row, function that reads its numbers) of the steps that are not logged yet
        clock = 0.0  # when the last of them was logged or, if that was later, when an evaluation or saving ended
        about = {"config": dataclasses.asdict(config), "data": data.meta, "tokenizer": data.tokenizer}
        about |= {"options": options, **provenance(config.attention)}

        if old := run.begin(about):  # the checkpoint to begin with
            same = old["config"]["attention"] == config.attention  # else this one adds numbers to it, which start fresh
            gpt.load_state_dict(old["model"], strict=same)
            if init_from == "resume":
                groups = optimizer.state_dict()["param_groups"]  # weight decay and betas may be new
                optimizer.load_state_dict({"state": old["optimizer"]["state"], "param_groups": groups})
                if old.get("scaler"):
                    scaler.load_state_dict(old["scaler"])
                step, best = old["step"], old["best"]

        def save(name):
            largest = [p.detach().abs().max().item() for p in gpt.parameters()]
            run.check_finite(step, "the update before it left weights that are nan or inf", *largest)
            checkpoint = {**about, "step": step, "best": best, "seconds": run.seconds, "model": gpt.state_dict()}
            if name == "ckpt.pt":
                checkpoint |= {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
            run.save(name, checkpoint)

        def log_step():
            """Log the oldest step that is not logged yet. Raises UsageError where it diverged."""
            nonlocal clock
            row, read = steps_under_way.pop(0)
            loss, norm, scale = read()
            message = f"loss {loss}, gradient norm {norm} at learning rate {row['learning_rate']:.3g}: stopped"
            skipped = scaler.is_enabled() and scale >= 1 and not math.isfinite(norm)  # float16: the next scale is half
            run.check_finite(row["step"], message, loss, 0.0 if skipped else norm)
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            row |= {"train_loss": loss, "grad_norm": None if skipped else norm}
            run.log(row | {"tokens_per_second": round(windows_per_step * config.block_size / seconds)})

        loss_of, mode = machine.compiled(gpt, compile, autocast, example=batch(data.train, batch_size, seed, 0))
        name = machine.device_name(device)
        run.say(f"{out}: {config.attention}, {gpt.n_params():,} parameters, {data.name}, {name}, {mode}")

        while True:
            stop = machine.largest(max(signals, default=0))  # the number of the signal that asks us to stop, or 0
            done = step >= max_iters
            row = {"step": step}  # a line of metrics.jsonl
            pause = done or stop or step % eval_interval == 0 or step % checkpoint_interval == 0
            while pause and steps_under_way:
                log_step()

            if (done or step % eval_interval == 0) and not stop:
                evaluated = evaluate(loss_of, gpt, data.val, batch_size, eval_tokens, autocast, signals)
                if evaluated is None:
                    continue  # a signal came
                row |= evaluated | {"val_bits_per_byte": evaluated["val_loss"] * data.bits_per_nat, **watched(gpt)}
                run.check_finite(step, f"validation loss {row['val_loss']}", row["val_loss"])
                run.say(f"step {step}: val {described(row)}")
                if best is None or row["val_loss"] < best["val_loss"]:
                    best = dict(row)
                    save("best.pt")
            if done or stop or step % checkpoint_interval == 0:
                save("ckpt.pt")
            if done or stop:
                break

            if pause or not clock:
                clock = time.perf_counter()
            lr = schedule(step, learning_rate, min_lr, warmup_iters, decay_end)
            for group in optimizer.param_groups:
                group["lr"] = lr
            seed_dropout(seed, step, device)
            x, y = (to_device(machine.share(z), device) for z in batch(data.train, windows_per_step, seed, step))
            loss = forward_backward(loss_of, x, y, batch_size, autocast, scaler)
            machine.average([p.grad for p in gpt.parameters() if p.grad is not None] + [loss])
            scaler.unscale_(optimizer)
            norm = clip_grad_norm_(gpt.parameters(), grad_clip or math.inf)
            numbers = machine.reading(loss, norm, scaler.scale(torch.ones_like(loss)))
            steps_under_way.append((row | {"learning_rate": lr}, numbers))
            if len(steps_under_way) > machine.lag(device):
                log_step()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            step += 1

        seconds = run.seconds
        if not stop:
            run.log(row)  # the last evaluation, which no step followed
        size = f"{config.n_layer} layers of {config.n_embd}, {gpt.n_params() / 1e6:.2f}M parameters"
        run.plot(f"{data.name} ({data.meta['tokenizer']}), seed {seed}\n{config.attention}, {size}")

    machine.disconnect()
    if stop:
        go_on = f"python train.py {shlex.quote(f'{out}/config.toml')} --init_from=resume"
        run.say(f"stopped at step {step}, and saved. Go on: {go_on}")
        sys.exit(128 + stop)  # as shells do
    then = f"Sample it: python sample.py {shlex.quote(str(out))}"
    if data.val.record:
        question = shlex.quote(data.val.record["example"])
        then = (
            f"Ask it: python sample.py {shlex.quote(str(out))} --prompt={question} --max_new_tokens=1 --temperature=0"
        )
    run.say(f"best val {described(best)}, at step {best['step']}; {seconds:.0f} s. {then}")
    return {"out_dir": str(out), "val_loss": row["val_loss"], "best": best, "seconds": seconds}


def described(row):
    """The numbers of an evaluation in words."""
    accuracy = f", accuracy {row['accuracy']:.1%}" if "accuracy" in row else ""
    return f"{row['val_loss']:.4f} nats/token, {row['val_bits_per_byte']:.4f} bits/byte{accuracy}"


# ---------------------------------------------------------------------------- batches


def batch(split, n, seed, step):
    """n windows of a split, drawn from (seed, step) alone: tokens x BT, and the token after each of them, y BT."""
    numbers = np.random.default_rng((seed, step)).integers(split.n_windows, size=n)
    return split.windows(numbers)


def seed_dropout(seed, step, device):
    """Dropout, too, is drawn from (seed, step); each process has its own."""
    seed_of = torch.default_generator if device.type == "cpu" else torch  # torch's own takes 1 ms where CUDA is missing
    seed_of.manual_seed(int(np.random.SeedSequence((seed, step, machine.rank())).generate_state(1)[0]))


# ---------------------------------------------------------------------------- losses


def forward_backward(loss_of, x, y, batch_size, autocast, scaler):
    """Mean loss over the windows x, y BT, on the device; its gradient, times the scale of `scaler`, is left in .grad.

    It is computed batch_size windows at a time.
    """
    total = 0.0
    for micro_x, micro_y in zip(x.split(batch_size), y.split(batch_size), strict=True):
        with autocast:
            loss = loss_of(micro_x, micro_y) * (len(micro_x) / len(x))
        scaler.scale(loss).backward()
        total += loss.detach()
    return total


@torch.no_grad()
def evaluate(loss_of, gpt, split, batch_size, eval_tokens, autocast, signals=()):
    """{"val_loss": mean loss over a split in order, in nats/token}: each token but the first is predicted once.

    Of a task also "accuracy", the share of scored tokens that are the likeliest. None where a signal came meanwhile.
    """
    gpt.eval()
    sums = {"val_loss": 0.0} | ({"accuracy": 0.0} if split.record else {})
    count = 0
    for i, (x, y) in enumerate(split.in_order(batch_size, eval_tokens)):
        n = (y >= 0).sum().item()  # targets of −1 do not count
        count += n
        if signals:
            break
        if n and i % machine.count() == machine.rank():  # processes take turns
            x, y = x.to(gpt.device), y.to(gpt.device)
            with autocast:
                sums["val_loss"] += loss_of(x, y).item() * n
                if split.record:
                    sums["accuracy"] += (gpt(x).argmax(-1) == y)[y >= 0].sum().item()
    gpt.train()
    if machine.largest(len(signals)):
        return None
    return {name: machine.total(value) / count for name, value in sums.items()}


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
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=fused)  # the loop sets lr at each step


def schedule(step, learning_rate, min_lr, warmup_iters, lr_decay_iters):
    """Learning rate of a step: linear up to learning_rate, then half a cosine down to min_lr."""
    if step < warmup_iters:
        return learning_rate * (step + 1) / warmup_iters
    if step >= lr_decay_iters:
        return min_lr
    progress = (step - warmup_iters) / (lr_decay_iters - warmup_iters)
    return min_lr + (learning_rate - min_lr) * (1 + math.cos(math.pi * progress)) / 2


# ---------------------------------------------------------------------------- the command line


def preset(values):
    """The preset for the device that the options `values` name or, for auto, for the device found."""
    device = values.get("device", "auto")
    name = "cpu" if device == "cpu" or (device == "auto" and not torch.cuda.is_available()) else "gpu"
    return os.path.relpath(ROOT / "config" / f"{name}.toml")


OPTIONS_OF_NANOGPT = {  # that do not exist here, and what serves instead
    "eval_iters": "evaluation reads the validation split in order; --eval_tokens=N reads only its first N tokens",
    "eval_only": "--init_from=CHECKPOINT --max_iters=0 --out_dir=NEW evaluates a checkpoint and takes no step",
    "log_interval": "every step is a line of metrics.jsonl in the run's folder",
    "always_save_checkpoint": "ckpt.pt is the latest state, best.pt the best one; see --checkpoint_interval",
    "wandb_.*": "nothing is sent anywhere; metrics.jsonl and loss.png are in the run's folder",
    "decay_lr": "for a constant learning rate give --min_lr the same value as --learning_rate",
    "bias": "no layer has a bias, as with nanoGPT's bias=False",
    "backend": "processes of torchrun use nccl on CUDA and gloo on a CPU",
}


if __name__ == "__main__":
    configurable.run(train, preset=preset, hints=OPTIONS_OF_NANOGPT)
