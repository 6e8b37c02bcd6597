"""How alike a reconstruction and its original are: the tables of metrics, and metrics by name."""

from typing import TYPE_CHECKING

from fl_privacy_audit.core.later import names_from

from .table import METRICS as METRICS
from .table import SET_METRICS as SET_METRICS
from .table import Metric as Metric
from .table import SetMetric as SetMetric
from .table import title_of as title_of

if TYPE_CHECKING:
    from .frechet import SetScore as SetScore
    from .frechet import fid as fid
    from .frechet import frechet_semsim as frechet_semsim
    from .identification import identification_lpips as identification_lpips
    from .identification import identification_pixels as identification_pixels
    from .identification import identification_semsim as identification_semsim
    from .multiscale import ms_ssim as ms_ssim
    from .perceptual import lpips as lpips
    from .pixel import mse as mse
    from .pixel import psnr as psnr
    from .pixel import ssim as ssim
else:
    __getattr__ = names_from(
        __name__,
        {
            "frechet": "SetScore fid frechet_semsim",
            "identification": "identification_lpips identification_pixels identification_semsim",
            "multiscale": "ms_ssim",
            "perceptual": "lpips",
            "pixel": "mse psnr ssim",
        },
    )
