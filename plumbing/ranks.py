"""The processes that torchrun starts: ranks 0 to N − 1. A process without torchrun is rank 0 of 1."""

import contextlib
import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from configurable import UsageError


def connect(device, gradient_accumulation_steps):
    """Connect to the other ranks, if torchrun started any. Raises UsageError."""
    world_size = os.environ.get("WORLD_SIZE", "1")
    if not world_size.isdecimal() or int(world_size) == 0:
        raise UsageError(
            f"WORLD_SIZE={world_size}: torchrun sets it to the number of processes; without torchrun, unset it"
        )
    if gradient_accumulation_steps % int(world_size):
        raise UsageError(
            f"gradient_accumulation_steps={gradient_accumulation_steps}: {world_size} processes share a step's "
            f"forward passes, so it must be a multiple of {world_size}"
        )
    if world_size == "1":
        return
    if unset := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise UsageError(f"WORLD_SIZE={world_size} without {', '.join(sorted(unset))}: start processes with torchrun")
    for name in ("RANK", "LOCAL_RANK"):
        if not os.environ[name].isdecimal() or int(os.environ[name]) >= int(world_size):
            raise UsageError(f"{name}={os.environ[name]}: must be a number below WORLD_SIZE={world_size}")
    if device.type == "cuda":
        if device.index != int(os.environ["LOCAL_RANK"]):
            raise UsageError(f"device={device}: under torchrun each process takes its own, so give cuda or auto")
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the processes cannot reach each other: {error}") from None


def disconnect():
    """Wait for all ranks, then disconnect: if one of them exits earlier, torchrun kills the others."""
    if dist.is_initialized():
        largest(0)
        dist.destroy_process_group()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def count():
    return dist.get_world_size() if dist.is_initialized() else 1


def total(number):
    """The sum of a number over all ranks."""
    return reduced(number, dist.ReduceOp.SUM)


def largest(number):
    """The maximum of a number over all ranks."""
    return reduced(number, dist.ReduceOp.MAX)


def reduced(number, operation):
    if not dist.is_initialized():
        return number
    tensor = torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else torch.int64)
    dist.all_reduce(tensor, operation)
    return tensor.item()


def share(rows):
    """This rank's rows of a batch."""
    n = len(rows)
    return rows[rank() * n // count() : (rank() + 1) * n // count()]


def share_gradients(gpt):
    """`gpt`, its gradients averaged over all ranks whenever `require_backward_grad_sync` is true."""
    if count() == 1:
        return gpt
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for broadcast_buffers
        return DistributedDataParallel(gpt, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def rank_0_first():
    """Rank 0 does what is inside before the others do: it makes files that they read.

    Where rank 0 fails the others exit silently: it has said why.
    """
    failed = 1
    try:
        if rank() > 0 and largest(0):
            sys.exit(2)
        yield
        failed = 0
    finally:
        if rank() == 0:
            largest(failed)
