"""What differs between machines: devices, number formats, compilers, memory; and how one asks a program to stop."""

import contextlib
import inspect
import os
import signal
import sys
import warnings

import torch

from configurable import UsageError, is_out_of_memory
from plumbing import ranks


def use_deterministic_kernels():
    """From now on take only kernels that give the same numbers every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True)


def find_device(name):
    """The torch.device of that name, tried out; "auto" is CUDA where there is one, else the CPU. Raises UsageError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # under torchrun each process has its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = torch.ones(1, device=name)
        assert one.item() == 1, "it does not compute"
        return one.device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(f"device={name}: {reason}; auto, cpu, cuda, cuda:1 and mps are examples") from None


def find_autocast(dtype, device):
    """The autocast of `dtype`; "auto" is bfloat16 on CUDA that has it, else float32 (on CUDA its products are TF32)."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        if dtype == "auto" and torch.cuda.is_bf16_supported(including_emulation=False):
            dtype = "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def device_name(device):
    """The name of a device as a person knows it: "NVIDIA H100 80GB HBM3", "cpu, 2 threads", "2 x cpu, 1 thread"."""
    each = f"{ranks.count()} x " if ranks.count() > 1 else ""
    if device.type == "cuda":
        return each + torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{each}{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def compiled(net, compile, autocast, example):
    """(compiled net, "compiled") where that is wanted and works on `example`, x and y; else (net, "eager")."""
    device = next(net.parameters()).device
    if compile is False or (compile == "auto" and device.type != "cuda"):
        return net, "eager"
    try:
        fast = torch.compile(net)
        with autocast:
            loss = fast(*(z.to(device) for z in example))
        loss.backward()
        return fast, "compiled"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C++ compiler, an old GPU: whatever it is, the plain model runs
        if ranks.rank() == 0:
            reason = str(error).strip().partition("\n")[0]
            print(f"torch.compile failed ({type(error).__name__}: {reason}); training without it")
        return net, "eager"
    finally:
        net.zero_grad()


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
            f"cannot write {error.filename or out}: {error.strerror}; what was saved in {out} is intact"
        ) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(
            f"out of memory: halve batch_size={options['batch_size']} (and double "
            f"gradient_accumulation_steps={options['gradient_accumulation_steps']}: the same batch in smaller parts), "
            f"block_size={options['block_size']} or n_embd={options['n_embd']}"
        ) from None


@contextlib.contextmanager
def stop_signals():
    """A list to which every SIGINT, SIGTERM and SIGHUP is added, for a loop to see; a second SIGINT interrupts at once.

    A closed terminal may send several SIGHUP, and none of them ends the process. Nor does a second SIGINT under
    torchrun, which repeats what the terminal has sent already; half a minute later it kills.
    """
    seen, before, several = [], {}, ranks.count() > 1

    def note(signum, frame):
        seen.append(signum)
        if len(seen) == 1 and ranks.rank() == 0:
            hint = "" if several else "; Ctrl-C stops at once, without saving"
            with contextlib.suppress(OSError):  # a closed terminal
                os.write(2, f"\nstopping after this step{hint}\n".encode())
        if signal.SIGINT in before and not several:
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
    """Print a line; where nobody can read it any more (a closed terminal or pipe), this and all later ones are lost."""
    try:
        write(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class AdamW(torch.optim.AdamW):
    """torch's AdamW without its decorators: they import torch's compiler, which takes as long as torch itself."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
