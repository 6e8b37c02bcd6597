"""Training SemSim on a corpus and annotators' answers, and judging it against other metrics.

::

    fl-privacy-audit semsim train CORPUS --answers answers.csv --out weights/
    fl-privacy-audit semsim evaluate CORPUS --answers others.csv --weights weights/semsim.safetensors

The metric itself is `fl_privacy_audit.metrics.semsim`; it needs nothing from here.
"""

from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .examples import Examples as Examples
from .examples import Rule as Rule
from .examples import Selection as Selection
from .examples import read_examples as read_examples
from .training import TrainSettings as TrainSettings
from .training import train as train
