from tests.detectors.catalogue.entry import Entry, Learner

TINY = {"features": 8, "latent_dim": 8, "search_steps": 3, "restarts": 1, "bank_size": 16}
QUICK = {
    "features": 8,
    "latent_dim": 16,
    "search_steps": 5,
    "bank_size": 128,
    "learning_rate": 0.0005,
    "critic_rate": 0.0005,
}

ENTRY = Entry(
    "randgan",
    variants=(TINY, {**TINY, "query_as_condition": True}, {**TINY, "score": "residual", "relative": True}),
    learners=(Learner(QUICK, 1, 2, 100, slow=True),),
    own_settings={
        "latent_dim": 16,
        "features": 8,
        "feature_weight": 0.3,
        "search_steps": 2,
        "step_size": 0.1,
        "restarts": 1,
        "bank_size": 8,
        "query_as_condition": True,
        "score": "residual",
        "relative": True,
    },
    fast={"features": 8, "latent_dim": 8, "search_steps": 1, "restarts": 1, "bank_size": 16},
    kinds=((2, 1), (2, 3)),
)
