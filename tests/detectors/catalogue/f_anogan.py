from tests.detectors.catalogue.entry import SMALL, Entry, learners

LEARNER = {"features": 4, "learning_rate": 0.002, "encoder_learning_rate": 0.003}

ENTRY = Entry(
    "f_anogan",
    variants=(
        SMALL,
        {"code": "linear", "score": "residual", "relative": True, **SMALL},
    ),
    learners=(
        *learners({"latent_dim": 8, "critic_steps": 2, **LEARNER}, (1, 2, 300)),
        *learners({"latent_dim": 16, "critic_steps": 1, **LEARNER}, (3, 2, 600), slow=True),
        *learners({"latent_dim": 8, "critic_steps": 1, **LEARNER}, (1, 3, 200), slow=True),
    ),
    own_settings={"latent_dim": 12, "feature_weight": 0.5, "code": "linear", "relative": True},
    fast={"features": 4, "latent_dim": 16},
)
