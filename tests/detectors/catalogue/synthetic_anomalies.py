from tests.detectors.catalogue.entry import Entry, learners

LEARNS = {"features": 8, "learning_rate": 0.003}
ENTRY = Entry(
    "synthetic_anomalies",
    variants=(
        {"features": 8},
        {"features": 8, "sign": "dark"},
    ),
    learners=(*learners(LEARNS, (1, 2, 200)), *learners(LEARNS, (3, 2, 200), (1, 3, 40), slow=True)),
    own_settings={
        "features": 16,
        "radius": [2.0, 8.0],
        "contrast": [0.2, 1.0],
        "levels": [0.0, 1.0],
        "texture": 0.1,
        "voxels_of_scan": 2,
        "fineness": 0.1,
        "jitter": 0.0,
        "gamma": 0.1,
    },
    fast={"features": 8},
    signed=True,
)
