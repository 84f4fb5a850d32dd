from tests.detectors.catalogue.entry import Entry, learners

LEARNER = {"features": 64, "critic_weight": 0.1, "learning_rate": 0.002}

ENTRY = Entry(
    "lstm_mad_gan",
    variants=(
        {"features": 8, "latent_dim": 3},
        {"features": 8, "latent_dim": 3, "window": 8, "critic_weight": 0.8, "relative": True},
    ),
    learners=(
        *learners(LEARNER, (1, 2, 300)),
        *learners(LEARNER, (3, 2, 300), (1, 3, 300), slow=True),
    ),
    own_settings={"window": 9, "step": 5, "features": 20, "latent_dim": 5, "critic_weight": 0.3, "relative": True},
    fast={"features": 8},
)
