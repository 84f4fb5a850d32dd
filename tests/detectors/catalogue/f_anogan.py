from tests.detectors.catalogue.entry import SMALL, Entry, learners

LEARNER = {"latent_dim": 8, "learning_rate": 0.002, "encoder_learning_rate": 0.003, "critic_steps": 2}

ENTRY = Entry(
    "f_anogan",
    variants=(
        SMALL,
        {"code": "linear", "score": "residual", "relative": True, **SMALL},
    ),
    learners=(
        *learners({"features": 4, **LEARNER}, (1, 2, 300)),
        *learners({"features": 8, **LEARNER}, (3, 2, 400), slow=True),
        *learners({"features": 4, **LEARNER}, (1, 3, 150), slow=True),
    ),
    own_settings={"latent_dim": 12, "feature_weight": 0.5, "code": "linear", "relative": True},
    fast={"features": 4, "latent_dim": 16},
)
