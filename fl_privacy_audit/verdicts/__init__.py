"""What the records of a run say: verdicts, their evidence, and runs side by side."""
