"""One attention layer, alone, without embedding, residual stream and MLP: trained on contexts that an experiment draws.

A context is n tokens of C channels, the last of which also carries a question. The answer is what the layer gives at
that token, in its first channels.
"""

import json
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from model import ATTENTION, GPT, GPTConfig
from plumbing.run import provenance

C = 64  # channels of the layer


def train_all(settings, seeds, trained, out):
    """One run per setting and seed: a dict of both and of what trained(**setting, seed=seed) returns.

    Every run adds a line to the file `out`.
    """
    runs, commit = [], provenance()["commit"]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        for setting in tqdm(settings, disable=None):
            for seed in seeds:
                runs.append({**setting, "seed": seed, **trained(**setting, seed=seed)})
                print(json.dumps({**runs[-1], "commit": commit}), file=file, flush=True)
    return runs


def suits(attention, n_head):
    """Whether a mechanism can have so many softmax maps."""
    return n_head % ATTENTION[attention].maps_per_head == 0


def one_layer(attention, n_head, n_tokens, seed, positions=False):
    """The layer, with weights that its seed decides. positions: whether queries and keys are rotated."""
    torch.manual_seed(seed)
    shape = {"n_layer": 1, "n_head": n_head, "n_embd": C, "block_size": n_tokens, "vocab_size": 1}
    layer = GPT(GPTConfig(attention, init_std=C**-0.5, **shape)).blocks[0].attention
    if not positions:  # rotate by no angle: `rotate` itself stays, since a mechanism may bound its scores there
        layer.cos.fill_(1)
        layer.sin.zero_()
    return layer


def asking(keys, values, asked):
    """Tokens x BTC that carry a key and a value each; the last also carries the key of token `asked`, B."""
    x, K = torch.zeros(*keys.shape[:2], C), keys.size(-1)
    x[..., :K], x[..., K : K + values.size(-1)], x[:, -1, -K:] = keys, values, keys[range(len(keys)), asked]
    return x


def train(layer, contexts, learning_rate, steps, batch_size=64, after=lambda step: None):
    """Train a layer on `steps` batches of contexts(count), which returns x BTC and the answers y, B×width.

    The learning rate rises over 100 steps, and falls to 0 over the second half. after(step) is called after each step.
    """
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        x, y = contexts(batch_size)
        loss = (answer(layer, x, y.size(1)) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        after(step + 1)


def answer(layer, x, width=C):
    """The first channels of the last row of layer(x), BTC -> B×width, without computing the others."""
    q, k, v = layer.project(x)
    return layer.out(layer.norm(layer.mix(x[:, -1:], q[:, :, -1:], k, v)).flatten(1))[:, :width]


def relative_error(layer, x, y):
    """Squared error of the layer's answers ÷ variance of the right ones."""
    return ((answer(layer, x, y.size(1)) - y).square().mean() / y.var()).item()
