"""A race: whole runs of nanodiff and of nanoGPT, start to exit, to the same loss on tiny Shakespeare."""

import contextlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from configurable import UsageError
from lab.timing import BAR, quartiles
from plumbing.checkpoint import load
from plumbing.dataset import Split
from plumbing.run import ROOT
from prepare import prepare
from train import evaluate

# ---------------------------------------------------------------------------- nanoGPT


def load_peer(folder):
    """The model.py of a nanoGPT checkout, as a module; of None, None. Raises UsageError where it is no checkout."""
    if folder is None:
        return None
    if not (Path(folder) / "config/train_shakespeare_char.py").is_file():
        raise UsageError(f"peer={folder}: must be the folder of a nanoGPT checkout")
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(folder) / "model.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer_model(peer, shape, seed, device):
    """nanoGPT's model, of the module `peer`, in the shape of a GPTConfig, and like nanodiff's without biases."""
    same = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout")
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return peer.GPT(peer.GPTConfig(bias=False, **{name: getattr(shape, name) for name in same})).to(device)


def peer_optimizer(net, weight_decay, betas):
    """The AdamW that nanoGPT makes for its own model."""
    with contextlib.redirect_stdout(io.StringIO()):
        return net.configure_optimizers(weight_decay, 1e-3, betas, next(net.parameters()).device.type)


def peer_loss(peer, checkpoint, val, device, autocast):
    """The loss of nanoGPT's checkpoint over all of its val.bin, in nats/token."""
    saved = torch.load(checkpoint, map_location=device, weights_only=True)
    with contextlib.redirect_stdout(io.StringIO()):
        net = peer.GPT(peer.GPTConfig(**saved["model_args"])).to(device)
    net.load_state_dict({name.removeprefix("_orig_mod."): weight for name, weight in saved["model"].items()})
    net.device = device  # where `evaluate` sends the tokens
    split = Split(np.fromfile(val, np.uint16), saved["model_args"]["block_size"])
    return evaluate(lambda x, y: net(x, y)[1], net, split, 24, None, autocast)


# ---------------------------------------------------------------------------- how long to the same loss


RACES = {  # nanodiff's preset and options; nanoGPT's options, which are those of its README
    "cpu": (
        "race.toml",
        "",
        "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
        "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0",
    ),
    "cuda": ("gpu.toml", "--max_iters=2000", ""),
}


def race(folder, repetitions, device, autocast):
    """Two rows, of nanodiff and of the nanoGPT in `folder`, each trained on tiny Shakespeare up to three times.

    Seconds are from the program's start to its exit. The loss is that of the best checkpoint over all of the validation
    split; nanoGPT itself chooses that checkpoint by 20 batches, on CUDA by 200. Raises UsageError where one fails.
    """
    preset, options, peer_options = RACES[device.type]
    seconds, losses = {"nanodiff": [], "nanoGPT": []}, {"nanodiff": [], "nanoGPT": []}
    with tempfile.TemporaryDirectory() as temporary:
        peer, nanogpt = load_peer(folder), copy_peer(folder, Path(temporary, "nanogpt"))
        peer_command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *peer_options.split()]
        for r in tqdm(range(runs := min(repetitions, 3)), "races", **BAR):
            out = Path(temporary, f"nanodiff-{r}")
            command = [sys.executable, ROOT / "train.py", ROOT / "config" / preset, *options.split()]
            command += ["--dataset=tinyshakespeare", f"--seed={r + 1}", f"--out_dir={out}", f"--device={device.type}"]
            seconds["nanodiff"].append(run_program(command))
            seconds["nanoGPT"].append(run_program(peer_command, nanogpt))
            losses["nanodiff"].append(load(out / "best.pt")["best"]["val_loss"])
            saved, val = nanogpt / "out-shakespeare-char/ckpt.pt", nanogpt / "data/shakespeare_char/val.bin"
            losses["nanoGPT"].append(peer_loss(peer, saved, val, device, autocast))
    for who in seconds:
        row = {"who": who, "runs": runs, "seconds": quartiles(seconds[who]), "val_loss": quartiles(losses[who])}
        ratios = [own / base for own, base in zip(seconds[who], seconds["nanoGPT"], strict=True)]
        yield row | {"seconds_to_nanogpt": quartiles(ratios), "worst_val_loss": max(losses[who])}


def copy_peer(folder, target):
    """Copies nanoGPT to `target` and prepares tiny Shakespeare there, from nanodiff's own copy of the text."""
    source = Path("data/tinyshakespeare")
    if not source.exists():
        prepare("shakespeare")
    meta = json.loads((source / "meta.json").read_text(encoding="utf-8"))
    if meta["tokenizer"] != "bytes":
        raise UsageError(f"{source} is not in bytes: python prepare.py shakespeare")
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("out*", ".git", "*.bin"))
    text = np.concatenate([np.fromfile(source / f"{part}.bin", meta["dtype"]) for part in ("train", "val")])
    text.astype(np.uint8).tofile(target / "data/shakespeare_char/input.txt")
    run_program([sys.executable, "prepare.py"], target / "data/shakespeare_char")
    return target


def run_program(command, folder=None):
    """Seconds from a program's start to its exit. Raises UsageError with its last line of output if it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "without a message").split("\n")[-1]
        raise UsageError(f"{' '.join(map(str, command))}: exit {done.returncode}, {last}")
    return time.perf_counter() - started
