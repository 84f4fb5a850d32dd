from tests.detectors.catalogue.entry import SMALL, Entry, learners

ENTRY = Entry(
    "ganomaly",
    variants=(
        {"variant": "A", "critic": "bce", **SMALL},
        {"variant": "K", "critic": "bce", **SMALL},
        {"variant": "K", "critic": "wgan-gp", **SMALL},
        {"variant": "K", "critic": "bce", "score": "residual", **SMALL},
        {"variant": "K", "unit_code": True, **SMALL},
    ),
    learners=(
        *learners({"variant": "A", "critic": "bce", "features": 16, "latent_dim": 16}, (1, 2, 250), (3, 2, 250)),
        *learners({"variant": "A", "critic": "bce", "features": 8, "latent_dim": 16}, (1, 3, 120), slow=True),
        *learners(
            {"variant": "K", "critic": "bce", "features": 16, "latent_dim": 16, "score": "residual"}, (3, 2, 250)
        ),
        *learners({"variant": "K", "features": 16, "latent_dim": 16}, (1, 2, 300)),
        *learners({"variant": "K", "features": 8, "latent_dim": 16}, (1, 3, 120), slow=True),
    ),
    own_settings={"variant": "K", "critic": "wgan-gp", "unit_code": True, "score": "residual"},
)
