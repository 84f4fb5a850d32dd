from tests.detectors.catalogue.entry import SMALL, Entry, learners

QUICK = {"features": 8, "latent_dim": 16, "learning_rate": 0.001}

ENTRY = Entry(
    "skip_ganomaly",
    variants=(SMALL, {"score": "residual", "relative": True, **SMALL}),
    learners=(
        *learners(QUICK, (1, 2, 100), (3, 2, 200)),
        *learners({**QUICK, "features": 4}, (1, 3, 60)),
        *learners({**QUICK, "score": "residual"}, (1, 2, 100)),
    ),
    own_settings={
        "features": 6,
        "latent_dim": 12,
        "noise_std": 0.5,
        "score": "sum",
        "feature_weight": 0.3,
        "relative": True,
    },
    fast={"features": 8, "latent_dim": 16},
)
