"""Functions take turns, and what is measured of them is what it is called."""

import functools
import os
import time

import pytest
import torch
import torch.nn.functional as F

from lab.timing import in_turns, quartiles, speedup


def measure(steps):
    return in_turns(steps, 3, torch.device("cpu"))


def test_everyone_has_a_turn_a_round_and_nobody_is_always_first():
    calls = []
    measures = measure({name: lambda name=name: calls.append(name) for name in "abc"})
    assert "".join(calls[-9:]) == "abcbcacab"
    assert calls[:-9] == [name for name in "abc" for _ in range(3)]  # two to warm up, one looked at
    assert all(len(m["seconds"]) == 3 for m in measures.values())


def test_seconds_are_of_the_call():
    measures = measure({"slow": lambda: time.sleep(0.05), "quick": lambda: None})
    assert all(0.05 <= s < 0.2 for s in measures["slow"]["seconds"]) and max(measures["quick"]["seconds"]) < 0.02
    assert speedup(measures["quick"], measures["slow"])[1] < 0.1


def test_bytes_are_the_most_that_were_allocated_at_once():
    def two_then_one():
        a = torch.ones(1 << 20)  # 4 MiB of float32
        b = torch.ones(1 << 20)
        del a
        return b + 1

    assert measure({"": two_then_one})[""]["peak_bytes"] == pytest.approx(2 << 22, abs=100)


def test_the_kernel_that_attends_is_named():
    q = torch.randn(1, 1, 8, 8)
    measures = measure(
        {
            "fused": lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True),
            "explicit": lambda: (q @ q.mT).softmax(-1) @ q,
        },
    )
    assert (measures["fused"]["kernel"], measures["explicit"]["kernel"]) == ("flash", "none")


def test_what_cannot_run_is_named_and_the_others_go_on():
    def fails(error):
        raise error

    errors = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("backend='x' raised:\n\nno compiler\nat all")
    steps = {name: functools.partial(fails, error) for name, error in zip("ab", errors, strict=True)} | {"c": int}
    measures = measure(steps)
    assert measures["a"] == {"failed": "out of memory"} and measures["b"] == {"failed": "no compiler"}
    assert len(measures["c"]["seconds"]) == 3
    assert measure({"a": steps["a"]}) == {"a": {"failed": "out of memory"}}


def test_quiet_profiling_leaves_stderr_as_it_was(capfd):
    calls = []
    measure({"": lambda: calls.append(os.write(2, b"-"))})
    os.write(2, b"still here")
    assert capfd.readouterr().err == "-----still here"  # of six calls, all but the one that was profiled
    assert len(calls) == 6


def test_a_ratio_is_of_rounds_not_of_medians():
    base, other = {"seconds": [1.0, 10.0, 4.0]}, {"seconds": [2.0, 5.0, 4.0]}
    assert speedup(base, other) == quartiles([0.5, 2.0, 1.0]) == [0.75, 1.0, 1.5]


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn", "math"])
def test_kernels_are_told_apart(monkeypatch, kernel):
    q = torch.randn(1, 1, 8, 8)
    backends = {"flash": "FLASH_ATTENTION", "math": "MATH"}
    if kernel not in backends:
        pytest.skip("needs a CUDA device")
    with torch.nn.attention.sdpa_kernel(getattr(torch.nn.attention.SDPBackend, backends[kernel])):
        measures = measure({"": lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)})
    assert measures[""]["kernel"] == kernel
