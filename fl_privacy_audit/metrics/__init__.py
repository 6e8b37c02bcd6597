"""How alike a reconstruction and its original are: the tables of metrics, and the plain ones by name."""

from .frechet import SetScore
from .pixel import mse, psnr, ssim
from .table import METRICS, SET_METRICS, Metric, SetMetric, title_of

__all__ = [
    "METRICS",
    "SET_METRICS",
    "Metric",
    "SetMetric",
    "SetScore",
    "mse",
    "psnr",
    "ssim",
    "title_of",
]
