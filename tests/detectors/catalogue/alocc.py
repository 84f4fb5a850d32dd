from tests.detectors.catalogue.entry import Entry, learners

ENTRY = Entry(
    "alocc",
    variants=({"features": 4}, {"features": 4, "score": "plain"}, {"features": 4, "relative": True}),
    learners=learners({"features": 8}, (1, 2, 100), (3, 2, 100)) + learners({"features": 4}, (1, 3, 80)),
    own_settings={"features": 6, "noise_std": 0.5, "score": "refined"},
    fast={"features": 8},
)
