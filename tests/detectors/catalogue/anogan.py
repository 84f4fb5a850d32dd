from tests.detectors.catalogue.entry import Entry, learners

SMALL = {"features": 4, "latent_dim": 8, "bank_size": 16, "search_steps": 3, "restarts": 2}
LEARNER = {"features": 8, "learning_rate": 0.001, "bank_size": 512, "search_steps": 15, "restarts": 1, "step_size": 0.1}

ENTRY = Entry(
    "anogan",
    variants=(
        SMALL,
        {"score": "residual", "relative": True, **SMALL},
    ),
    learners=(
        *learners({"latent_dim": 8, **LEARNER}, (1, 2, 250)),
        *learners({"latent_dim": 16, **LEARNER}, (3, 2, 400), slow=True),
        *learners({"latent_dim": 8, **LEARNER}, (1, 3, 200), slow=True),
    ),
    own_settings={"latent_dim": 12, "feature_weight": 0.3, "search_steps": 3, "step_size": 0.1, "restarts": 2},
    fast={"features": 4, "latent_dim": 8, "bank_size": 32, "search_steps": 2, "restarts": 1},
)
