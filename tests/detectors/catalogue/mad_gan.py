from tests.detectors.catalogue.entry import SMALL, Entry, learners

LEARNER = {"latent_dim": 8, "features": 8, "learning_rate": 0.001, "encoder_learning_rate": 0.005}

ENTRY = Entry(
    "mad_gan",
    variants=(
        SMALL,
        {"generators": 1, "score": "residual", "relative": True, **SMALL},
    ),
    learners=(
        *learners(LEARNER, (1, 2, 500)),
        *learners(LEARNER, (3, 2, 1000), slow=True),
        *learners(LEARNER, (1, 3, 300), slow=True),
    ),
    own_settings={"generators": 2, "latent_dim": 12, "critic_weight": 0.3, "relative": True},
    fast={"features": 4, "latent_dim": 16},
)
