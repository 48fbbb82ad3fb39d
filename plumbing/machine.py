"""What differs between machines: devices, number formats, compilers, memory, signals, and several processes at once."""

import contextlib
import errno
import os
import signal
import sys
import warnings

import torch
import torch.distributed as dist

from configurable import UsageError


def find_device(name):
    """The torch.device of that name, tried out; "auto" is CUDA where there is one, else the CPU. Raises UsageError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # under torchrun each process has its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            device = torch.ones(1, device=name).device
            if device.type == "cuda":
                torch.cuda.set_device(device)  # else kernels of torch.compile would run on cuda:0
            return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        hint = " (did you mean cuda?)" if name == "gpu" else ""
        raise UsageError(f"device={name}{hint}: must be auto, cpu, cuda, cuda:1, mps ...; {reason}") from None


def find_autocast(dtype, device):
    """The autocast of `dtype`, and the GradScaler that float16 needs, else disabled.

    "auto" is bfloat16 on CUDA that has it, float16 on CUDA that has not, else float32 (on CUDA its products are TF32).
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        if dtype == "auto":
            dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    half = torch.float16 if dtype == "float16" else torch.bfloat16
    autocast = torch.autocast(device.type, half, enabled=dtype in ("bfloat16", "float16"))
    return autocast, torch.amp.GradScaler(device.type, enabled=dtype == "float16")


def lag(device):
    """By how many steps logging is late: on CUDA by one, so that the device works on the next one meanwhile."""
    return int(device.type == "cuda")


def reading(*scalars):
    """A function that returns the numbers in tensors of one element, and does not wait for what is begun after this."""
    copies = [scalar.detach().to("cpu", non_blocking=True) for scalar in scalars]
    arrived = None
    if scalars[0].device.type == "cuda":
        arrived = torch.cuda.Event()
        arrived.record()

    def read():
        if arrived:
            arrived.synchronize()
        return [copy.item() for copy in copies]

    return read


def use_deterministic_kernels():
    """From now on take only kernels that give the same numbers every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True)


def device_name(device):
    """The name of a device as a person knows it: "NVIDIA H100 80GB HBM3", "cpu, 2 threads", "2 x cpu, 1 thread"."""
    each = f"{count()} x " if count() > 1 else ""
    if device.type == "cuda":
        return each + torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{each}{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def compiled(gpt, compile, autocast, example):
    """(compiled gpt, "compiled") where that is wanted and works on `example`, x and y; else (gpt, "eager")."""
    if compile is False or (compile == "auto" and gpt.device.type != "cuda"):
        return gpt, "eager"
    try:
        fast = torch.compile(gpt)
        with autocast:
            loss = fast(*(z.to(gpt.device) for z in example))
        loss.backward()
        return fast, "compiled"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C++ compiler, an old GPU: whatever it is, the plain model runs
        if rank() == 0:
            reason = str(error).strip().partition("\n")[0]
            print(f"torch.compile failed ({type(error).__name__}: {reason}); training without it")
        return gpt, "eager"
    finally:
        gpt.zero_grad()


# ---------------------------------------------------------------------------- what may go wrong


@contextlib.contextmanager
def explained_failures(options):
    """Turns running out of memory or disk into a UsageError that says what to halve, or what is left."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise UsageError(
            f"out of memory: halve batch_size={options['batch_size']} and double gradient_accumulation_steps="
            f"{options['gradient_accumulation_steps']}, for the same batch in smaller parts; or halve block_size="
            f"{options['block_size']} or n_embd={options['n_embd']}"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        out = options["out_dir"]
        raise UsageError(f"cannot write to {out}: {error.strerror}; what was saved there is intact") from None


@contextlib.contextmanager
def stop_signals():
    """A list to which every SIGINT, SIGTERM and SIGHUP is added, for a loop to see; a second SIGINT interrupts at once.

    Under torchrun, which repeats to its processes what the terminal has sent already, a second SIGINT is ignored.
    """
    seen, before = [], {}

    def note(signum, frame):
        seen.append(signum)
        if len(seen) == 1 and rank() == 0:
            hint = "" if count() > 1 else "; Ctrl-C again stops at once, without saving"
            with contextlib.suppress(OSError):  # a closed terminal
                os.write(2, f"\nstopping and saving{hint}\n".encode())
        if signum == signal.SIGINT and count() == 1:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    with contextlib.suppress(ValueError):  # outside the main thread there are no signals to take
        for signum in {getattr(signal, name, signal.SIGTERM) for name in ("SIGINT", "SIGTERM", "SIGHUP")}:
            if signal.getsignal(signum) != signal.SIG_IGN or signum == signal.SIGINT:  # nohup has SIGHUP ignored
                before[signum] = signal.signal(signum, note)
    try:
        yield seen
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def print_if_possible(text, write=print):
    """Print a line; where nobody can read it any more, as in a closed terminal, this and all later ones are lost."""
    try:
        write(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---------------------------------------------------------------------------- the processes that torchrun starts


def connect(device, gradient_accumulation_steps):
    """Connect the processes that torchrun started, ranks 0 to N − 1, if it did. Raises UsageError."""
    n = int(os.environ.get("WORLD_SIZE", 1))
    if gradient_accumulation_steps % n:
        raise UsageError(
            f"gradient_accumulation_steps={gradient_accumulation_steps}: {n} processes share a step's forward passes, "
            f"so it must be a multiple of {n}"
        )
    if n > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


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
    if count() == 1:
        return number
    tensor = torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else torch.int64)
    dist.all_reduce(tensor, operation)
    return tensor.item()


def share(rows):
    """This rank's rows of a batch."""
    n = len(rows)
    return rows[rank() * n // count() : (rank() + 1) * n // count()]


def average(tensors):
    """Replace every tensor by its mean over all ranks."""
    if count() > 1:
        mean = torch.cat([tensor.flatten() for tensor in tensors]) / count()
        dist.all_reduce(mean)
        for tensor, part in zip(tensors, mean.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


@contextlib.contextmanager
def rank_0_first():
    """Rank 0 does what is inside before the others do. Where it fails the others exit silently: it has said why."""
    failed = 1
    try:
        if rank() > 0 and largest(0):
            sys.exit(2)
        yield
        failed = 0
    finally:
        if rank() == 0:
            largest(failed)
