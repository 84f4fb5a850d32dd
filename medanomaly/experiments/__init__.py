"""Whole experiments over the same objects: the demo, and how bundles are found, copied and run."""
