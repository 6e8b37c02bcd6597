"""Collecting people's judgements of reconstructions, on a local web page.

::

    fl-privacy-audit annotate CORPUS
    fl-privacy-audit annotate CORPUS --export answers.csv
    fl-privacy-audit annotate CORPUS --agreement

The corpus and the answers are those of `fl_privacy_audit.lab.manifest`.
"""

from .app import Service as Service
from .app import create_app as create_app
from .command import annotate_command as annotate_command
from .export import answers as answers
from .export import ratings_table as ratings_table
from .items import Item as Item
from .items import check_corpus as check_corpus
from .plan import Settings as Settings
from .store import Store as Store
