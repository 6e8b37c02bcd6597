"""The laboratory behind SemSim: corpora of reconstructions, who judges them, training, the study.

A product of its own that shares metrics and attacks with the audit; its packages come with the
extra ``[lab]``. See ``docs/lab.md``.
"""
