from tests.detectors.catalogue.entry import SMALL, Entry, learners

ENTRY = Entry(
    "autoencoder",
    variants=(
        {"kind": "spatial", **SMALL},
        {"kind": "dense", **SMALL},
    ),
    learners=(
        *learners(
            {"kind": "spatial", "features": 8, "latent_dim": 2, "learning_rate": 0.003},
            (1, 2, 100),
            (3, 2, 100),
        ),
        *learners({"kind": "spatial", "features": 8, "latent_dim": 2, "learning_rate": 0.003}, (1, 3, 60), slow=True),
        *learners({"kind": "dense", "features": 8, "latent_dim": 8, "learning_rate": 0.003}, (1, 2, 100)),
        *learners({"kind": "dense", "features": 8, "latent_dim": 8, "learning_rate": 0.003}, (1, 3, 120), slow=True),
        *learners({"kind": "dense", "features": 16, "latent_dim": 16, "learning_rate": 0.003}, (3, 2, 200), slow=True),
    ),
    own_settings={"kind": "dense", "features": 6, "latent_dim": 12, "jitter": 0.05},
    fast={"features": 8, "latent_dim": 16},
    signed=True,
    residual=True,
)
