"""Which metric to believe: metrics judged against people's answers.

::

    result = run_study("ratings.csv", "out")
    result.model_level.correlations["psnr"].spearman.value

The columns of the table are described in `fl_privacy_audit.lab.study.table`.
"""

from fl_privacy_audit.core.errors import StudyError as StudyError

from .agreement import Agreement as Agreement
from .bootstrap import Estimate as Estimate
from .bootstrap import Interval as Interval
from .ceiling import Ceiling as Ceiling
from .contradictions import Contradictions as Contradictions
from .image_level import ImageLevel as ImageLevel
from .model_level import ModelLevel as ModelLevel
from .result import StudyResult as StudyResult
from .run import run_study as run_study
from .table import Ratings as Ratings
from .table import read_ratings as read_ratings
