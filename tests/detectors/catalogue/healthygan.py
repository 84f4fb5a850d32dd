from tests.detectors.catalogue.entry import Entry, learners

QUICK = {"features": 8, "learning_rate": 0.001, "weights": (10.0, 10.0, 0.1)}

ENTRY = Entry(
    "healthygan",
    variants=({"features": 4}, {"features": 4, "score": "mean", "levels": (-1.0, 3.0), "critic_steps": 1}),
    learners=(*learners(QUICK, (1, 2, 100)), *learners(QUICK, (3, 2, 300), (1, 3, 100), slow=True)),
    own_settings={"features": 6, "levels": [-1.0, 3.0], "score": "mean"},
    fast={"features": 4},
    signed=True,
    residual=True,
)
