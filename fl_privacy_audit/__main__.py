"""``python -m fl_privacy_audit``."""

from fl_privacy_audit.cli import main

main()
