"""Speed and memory against named rivals: ``make bench``, or ``python -m benchmarks``."""
