from tests.detectors.catalogue.entry import Entry, learners

LEARNER = {"hidden": 400, "generator_rate": 1e-4}

ENTRY = Entry(
    "so_gaal",
    variants=({"numbers": 64, "hidden": 8},),
    learners=(
        *learners(LEARNER, (1, 2, 400), (3, 2, 400)),
        *learners({"numbers": 64, **LEARNER}, (1, 3, 400)),
    ),
    own_settings={"numbers": 100, "hidden": 40},
    fast={"hidden": 16, "stop_epochs": 1},
)
