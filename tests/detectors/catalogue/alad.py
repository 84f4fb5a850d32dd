from tests.detectors.catalogue.entry import SMALL, Entry, learners

QUICK = {"features": 8, "latent_dim": 16, "learning_rate": 0.002, "cycle": 10.0}

ENTRY = Entry(
    "alad",
    variants=(
        SMALL,
        {"code_discriminator": False, "spectral_norm": False, "score": "residual", "relative": True, **SMALL},
    ),
    learners=(*learners(QUICK, (1, 2, 150)), *learners(QUICK, (3, 2, 250), (1, 3, 80), slow=True)),
    own_settings={
        "cycle": 0.0,
        "features": 6,
        "latent_dim": 12,
        "code_discriminator": False,
        "spectral_norm": False,
        "score": "both",
        "relative": True,
    },
    fast={"features": 8},
)
