from tests.detectors.catalogue.entry import SMALL, Entry, learners

QUICK = {"features": 8, "latent_dim": 16, "learning_rate": 0.002, "cycle": 10.0}

ENTRY = Entry(
    "bigan",
    variants=(SMALL, {"score": "residual", "relative": True, "cycle": 0.0, **SMALL}),
    learners=(*learners(QUICK, (1, 2, 150)), *learners(QUICK, (3, 2, 250), (1, 3, 80), slow=True)),
    own_settings={
        "cycle": 0.0,
        "features": 6,
        "latent_dim": 12,
        "score": "residual",
        "critic_weight": 0.5,
        "relative": True,
    },
    fast={"features": 8},
)
