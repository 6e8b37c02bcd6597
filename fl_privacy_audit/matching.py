"""Which reconstruction answers which true image."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def match(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Optimal one-to-one assignment by mean squared error (Kuhn 1955; `scipy`).

    Only scores use it: it never decides which reconstruction an attack returns.

    Args:
        reconstructions: ``(M, C, H, W)`` in ``[0, 1]``.
        originals: ``(N, C, H, W)`` in ``[0, 1]``; ``M`` and ``N`` may differ.

    Returns:
        ``(N,)`` index of the reconstruction that answers each original; -1 where there are fewer
        reconstructions than originals and none is left.

    >>> a = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    >>> match(a.flip(0), a).tolist()
    [1, 0]
    """
    x, y = originals.flatten(1).double(), reconstructions.flatten(1).double()
    cost = torch.cdist(x, y).square().cpu().numpy()
    rows, columns = linear_sum_assignment(np.nan_to_num(cost, nan=1e12, posinf=1e12))
    answer = torch.full((len(originals),), -1, dtype=torch.long)
    answer[torch.as_tensor(rows)] = torch.as_tensor(columns)
    return answer
