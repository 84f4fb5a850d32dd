from tests.detectors.catalogue.entry import Entry, learners

RANDOM = {"backbone_weights": "random"}  # enough for the toy task
ENTRY = Entry(
    "patchcore",
    variants=(
        {**RANDOM, "backbone": "resnet10", "layers": (1, 2)},
        {**RANDOM, "backbone": "unet", "features": 8, "score": "patch"},
    ),
    learners=(
        *learners({**RANDOM, "smoothing": 1.0}, (1, 2, 0), (3, 2, 0)),
        *learners({**RANDOM, "smoothing": 1.0, "backbone": "resnet10", "layers": (1, 2)}, (1, 3, 0)),
    ),
    own_settings={
        "backbone": "unet",
        "layers": [1, 2],
        "features": 8,
        "ratio": 0.5,
        "max_features": 500,
        "eps": 0.8,
        "n_neighbours": 3,
        "smoothing": 1.0,
        "score": "patch",
    },
    fast={"backbone": "unet", "features": 8},
    needs=RANDOM,
    fitted=True,
)
