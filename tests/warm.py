"""All that a child of test_faults.py will need, loaded once into the server that it is forked from."""

import matplotlib.backends.backend_agg
import matplotlib.figure
import test_faults
import torch._dynamo

__all__ = ["matplotlib", "test_faults", "torch"]
