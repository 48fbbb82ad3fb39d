"""Everything that a GPU is wanted for, in calls of nine minutes at most: python -m lab.gpu --peer=PATH_TO_NANOGPT

The most wanted comes first. A part is a few commands; what they print goes to PART.txt, their results beside it. What
failed or found no time is done when the same command is given again, and what is done stays.

Needs tiny Shakespeare here (python prepare.py shakespeare) and, to race, in nanoGPT (python
data/shakespeare_char/prepare.py).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import torch.nn.functional as F

import ideas  # noqa: F401  so that their kernels are listed
from configurable import Range, one_of, run
from lab.show import THE_FOUR, table
from model import ATTENTION, GPTConfig
from plumbing.checkpoint import write_json
from plumbing.machine import device_name, find_device, stop_signals
from plumbing.run import ROOT, provenance

STEP = "-m lab.bench config/gpt2.toml --parts=step --paths=fused --modes=compiled --tokens=16384"
TRAIN = "train.py config/smoke.toml --dataset=tinyshakespeare"
PARTS = {  # name: (seconds allowed, commands); {out} is the part's folder, {peer} that of nanoGPT
    "differential-1024": (90, [f"{STEP} --lengths=1024 --attentions=vanilla,differential --out_dir={{out}}"]),
    "others-1024": (100, [f"{STEP} --lengths=1024 --attentions=vanilla,softmax1,temperature --out_dir={{out}}"]),
    "tests": (60, ["-m pytest -n 0 -q -m gpu"]),
    "mechanisms": (
        120,
        [
            f"{TRAIN} --attention={name} --compile={mode} --out_dir={{out}}/{name}-{mode}"
            for name in THE_FOUR
            for mode in ("true", "false")
        ],
    ),
    "resume": (
        30,
        [
            f"{TRAIN} --max_iters=20 --lr_decay_iters=50 --out_dir={{out}}/run",
            "train.py {out}/run/config.toml --max_iters=50 --init_from=resume",
            "sample.py {out}/run --max_new_tokens=50",
        ],
    ),
    "nanogpt-1024": (60, [f"{STEP} --lengths=1024 --attentions=vanilla --peer={{peer}} --out_dir={{out}}"]),
    "race": (180, ["-m lab.bench --parts=race --repetitions=1 --peer={peer} --out_dir={out}"]),
    "differential-4096": (80, [f"{STEP} --lengths=4096 --attentions=vanilla,differential --out_dir={{out}}"]),
    "memory-8192": (
        30,
        [
            "-m lab.bench config/gpt2.toml --parts=step --modes=eager --lengths=8192 --attentions=vanilla,differential "
            "--repetitions=3 --out_dir={out}"
        ],
    ),
    "attention": (
        30,
        [
            "-m lab.bench config/gpt2.toml --parts=attention --modes=eager --lengths=1024,4096 --tokens=16384 "
            "--out_dir={out}"
        ],
    ),
    "sampling": (
        30,
        [
            "-m lab.bench config/gpt2.toml --parts=sampling --attentions=vanilla,differential --repetitions=3 "
            "--out_dir={out}"
        ],
    ),
}


def gpu(
    *,
    parts: tuple[str, ...] = tuple(PARTS),  # what to do, in this order
    peer: str | None = None,  # folder of a nanoGPT checkout; none: nothing is compared with it
    seconds: Annotated[float, Range(gt=0)] = 540.0,  # time for all parts together; what is left waits for the next call
    out_dir: str = "out/gpu",  # folder for the results
    device: str = "cuda",  # on which GPU
):
    """Measure on a GPU what has not been measured; prints a table of the parts. Returns its rows."""
    for name in parts:
        one_of("parts", name, PARTS)
    device, out, started = find_device(device), Path(out_dir).resolve(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    about = {"device": device_name(device), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        about |= {"capability": capability, "expected_kernels": expected_kernels(capability)}
    write_json(out / "device.json", about | provenance())
    print(f"{about['device']}, torch {torch.__version__}, CUDA {about['cuda']}, cuDNN {about['cudnn']}", flush=True)
    rows = []
    with stop_signals() as signals:
        for name in parts:
            record = out / name / "part.json"
            row = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"exit": None}
            if row["exit"] != 0 and not signals:
                limit, commands = PARTS[name]
                row = run_part(name, commands, min(limit, seconds - (time.monotonic() - started)), out, peer)
                write_json(record, row)
            rows.append(row | {"part": name})
    print(
        f"\n{table([{'part': row['part'], 'result': result(row), 'seconds': row.get('seconds', '')} for row in rows])}"
    )
    return rows


def run_part(name, commands, limit, out, peer):
    """{"exit": 0 if all went well, "seconds"} of the Python commands of a part; none is begun after `limit` seconds."""
    folder, began = out / name, time.monotonic()
    folder.mkdir(exist_ok=True)
    if limit <= 0:
        return {"exit": None, "why": "no time left"}
    if peer is None and any("{peer}" in command for command in commands):
        return {"exit": None, "why": "needs --peer"}
    print(f"{name}, at most {limit:.0f} s", flush=True)
    code = 0
    with open(out / f"{name}.txt", "w", encoding="utf-8") as output:
        for command in commands:
            words = [word.format(out=folder, peer=peer) for word in command.split()]
            print(f"$ python {' '.join(words)}", file=output, flush=True)
            left = limit - (time.monotonic() - began)
            try:
                if left <= 0:
                    raise subprocess.TimeoutExpired(words, limit)
                done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=output, stderr=output, timeout=left)
            except subprocess.TimeoutExpired:
                return {"exit": None, "why": f"not done in {limit:.0f} s", "seconds": round(limit)}
            code = code or done.returncode
    return {"exit": code, "seconds": round(time.monotonic() - began)}


def result(row):
    return row.get("why") or {0: "done", None: "not begun"}.get(row["exit"], f"failed, exit {row['exit']}")


# ---------------------------------------------------------------------------- which kernel


def expected_kernels(capability, D=64):
    """{mechanism: the kernel that torch should take in 16 bits, where the queries of a head are D wide}."""
    return {name: " ".join(kernel(width, capability) for width in widths(name, D)) or "none" for name in ATTENTION}


def widths(attention, D):
    """The widths of queries, keys and values in a layer's calls of torch's kernel; none: it makes plain products."""
    layer = ATTENTION[attention](GPTConfig(attention, n_head=2, n_embd=2 * D, block_size=2), 0)
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as called:
        layer(torch.zeros(1, 2, 2 * D))
    return {q.size(-1) for (q, _, _), _ in called.call_args_list}


def kernel(width, capability, half=True):
    """The kernel that torch takes on CUDA for queries, keys and values of one width, a multiple of 8.

    They are of one length, causal, without a mask and, here, without dropout; half: 16 bits. These are the conditions
    of aten/src/ATen/native/transformers/cuda/sdp_utils.cpp in torch 2.14, with cuDNN newer than 9.15.
    """
    capability = tuple(capability)
    if half and capability[0] in (9, 10) and width <= 128:
        return "cudnn"
    fails_backward = ((8, 6) <= capability <= (8, 9) or capability[0] == 12) and 192 < width <= 224
    if half and (8, 0) <= capability <= (12, 1) and width <= 256 and not fails_backward:
        return "flash"
    return "efficient"


if __name__ == "__main__":
    run(gpu, program="python -m lab.gpu")
