"""A small federation on images, with every defence in the table: what demo and sweep run."""
