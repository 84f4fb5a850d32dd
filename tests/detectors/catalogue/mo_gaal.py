from tests.detectors.catalogue.entry import Entry, learners

LEARNER = {"generators": 3, "hidden": 400, "generator_rate": 1e-4}

ENTRY = Entry(
    "mo_gaal",
    variants=({"generators": 3, "numbers": 64, "hidden": 8},),
    learners=(
        *learners(LEARNER, (1, 2, 400), (3, 2, 400)),
        *learners({"numbers": 64, **LEARNER}, (1, 3, 400)),
    ),
    own_settings={"generators": 2, "numbers": 100, "hidden": 40},
    fast={"generators": 2, "hidden": 16, "stop_epochs": 1},
)
