from tests.detectors.catalogue.entry import Entry, learners

ENTRY = Entry(
    "progressive_ganomaly",
    variants=({"features": (4, 4, 4), "latent_dim": 8},),
    learners=(
        *learners({"features": (8, 8, 8), "latent_dim": 16, "fade_images": 640}, (1, 2, 200)),
        *learners({"features": (8, 8, 8), "latent_dim": 16, "fade_images": 320}, (1, 3, 80), slow=True),
    ),
    own_settings={
        "features": [8, 8, 6],
        "latent_dim": 20,
        "fade_images": 32,
        "unit_code": False,
        "score": "modified",
    },
    fast={"features": [16, 16, 16, 16], "fade_images": 64},
)
