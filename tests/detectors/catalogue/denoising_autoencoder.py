from tests.detectors.catalogue.entry import Entry, learners

LEARNS = {"features": 8, "noise_std": 0.5, "learning_rate": 0.003}
ENTRY = Entry(
    "denoising_autoencoder",
    variants=(
        {"features": 8},
        {"features": 8, "sign": "bright"},
    ),
    learners=(*learners(LEARNS, (1, 2, 200)), *learners(LEARNS, (3, 2, 200), (1, 3, 80), slow=True)),
    own_settings={"features": 16, "noise_std": 0.3, "noise_voxels": 4, "jitter": 0.0, "gamma": 0.1},
    fast={"features": 8},
    signed=True,
    residual=True,
)
