from tests.detectors.catalogue.entry import Entry, learners

ENTRY = Entry(
    "slice_madgan",
    variants=(
        {"features": 8},
        {"features": 8, "attention": 3, "score": "squared"},
    ),
    learners=learners({"features": 8, "learning_rate": 0.003}, (7, 2, 50))
    + learners({"features": 24, "learning_rate": 0.002}, (21, 2, 80), slow=True),
    own_settings={"features": 8, "attention": 7, "score": "squared"},
    fast={"features": 8},
    kinds=((2, 7), (2, 21)),
)
