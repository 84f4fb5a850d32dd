"""Models that make images and score nothing."""
