"""How alike a reconstruction and its original are: the tables of metrics, and metrics by name."""

from .frechet import SetScore, fid, frechet_semsim
from .identification import identification_lpips, identification_pixels, identification_semsim
from .multiscale import ms_ssim
from .perceptual import lpips
from .pixel import mse, psnr, ssim
from .table import METRICS, SET_METRICS, Metric, SetMetric, title_of

__all__ = [
    "METRICS",
    "SET_METRICS",
    "Metric",
    "SetMetric",
    "SetScore",
    "fid",
    "frechet_semsim",
    "identification_lpips",
    "identification_pixels",
    "identification_semsim",
    "lpips",
    "ms_ssim",
    "mse",
    "psnr",
    "ssim",
    "title_of",
]
