from tests.detectors.catalogue.entry import Entry, learners

ENTRY = Entry(
    "foreign_patch_interpolation",
    variants=({"features": 8},),
    learners=(
        *learners({"features": 8}, (1, 2, 150)),
        *learners({"features": 8}, (3, 2, 150), (1, 3, 40), slow=True),
    ),
    own_settings={"features": 16},
    fast={"features": 8},
)
