"""What user code may change during an audit, and training must find unchanged."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def process_state_kept() -> Iterator[None]:
    """Put back afterwards what models, attacks, metrics and sinks may have changed.

    That is the random state of Python, NumPy and torch (every GPU that is in use), torch's grad
    mode, default dtype and number of threads, and NumPy's handling of floating-point errors.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    had_gpu = torch.cuda.is_initialized()
    gpus = torch.cuda.get_rng_state_all() if had_gpu else []
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    threads, errors = torch.get_num_threads(), np.geterr()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if torch.cuda.is_initialized() and not had_gpu:
            # The GPU is new in this process: training will find it as freshly seeded.
            torch.cuda.manual_seed_all(torch.initial_seed())
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        np.seterr(**errors)
