"""Machine annotators: they name the class of a reconstruction, or say "cannot tell".

They stand in for people where nobody has labelled a corpus, and are no people: see
``docs/annotators.md``.
"""

from .answers import answer as answer
from .calibrate import Calibration as Calibration
from .calibrate import calibrate as calibrate
from .corruption import BLANKS as BLANKS
from .corruption import CORRUPTIONS as CORRUPTIONS
from .panel import MEMBERS as MEMBERS
from .panel import Order as Order
from .panel import make as make
from .pictures import Pictures as Pictures
from .pictures import read_pictures as read_pictures
from .store import Annotator as Annotator
from .store import load_all as load_all
from .training import Training as Training
from .training import train as train
