"""Which reconstruction answers which true image."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

LEAST_ERROR = 1e-10
"""Mean squared error below which two images are the same: 100 dB."""


def match(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Optimal one-to-one assignment: the greatest total PSNR (Kuhn 1955; `scipy`).

    The total of the errors themselves would let one wild reconstruction tear apart pairs that are
    exact. Only scores use it: it never decides which reconstruction an attack returns.

    ``(M, C, H, W)`` and ``(N, C, H, W)`` in ``[0, 1]`` -> ``(N,)`` index of the reconstruction that
    answers each original; -1 where M is less than N and none is left.

    >>> a = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    >>> match(a.flip(0), a).tolist()
    [1, 0]
    """
    x, y = originals.flatten(1).double(), reconstructions.flatten(1).double()
    error = torch.cdist(x, y).square().cpu().numpy() / x.shape[1]
    cost = np.log(error + LEAST_ERROR)
    rows, columns = linear_sum_assignment(np.nan_to_num(cost, nan=1e3, posinf=1e3))
    answer = torch.full((len(originals),), -1, dtype=torch.long)
    answer[torch.as_tensor(rows)] = torch.as_tensor(columns)
    return answer
