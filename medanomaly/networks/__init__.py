"""Building blocks without a purpose of their own, one file for each kind; detectors and generators are made of them."""
