from tests.detectors.catalogue.entry import Entry, learners

LEARNS = {
    "members": (
        {"detector": "denoising_autoencoder", "features": 8, "noise_std": 0.5, "learning_rate": 0.003},
        {"detector": "synthetic_anomalies", "features": 8, "learning_rate": 0.003},
    )
}
ENTRY = Entry(
    "fusion",
    variants=(
        {
            "members": (
                {"detector": "denoising_autoencoder", "features": 8},
                {"detector": "synthetic_anomalies", "features": 8},
            ),
            "prior_weight": 0.5,
        },
    ),
    learners=(*learners(LEARNS, (1, 2, 80)), *learners(LEARNS, (3, 2, 200), (1, 3, 25), slow=True)),
    own_settings={
        "members": [
            {"detector": "denoising_autoencoder", "features": 8, "channels": [0], "weight": 2.0},
            {"detector": "ganomaly", "patch_size": 16, "stride": 16, "features": 4, "latent_dim": 8},
        ],
        "prior_weight": 0.5,
        "prior_channel": 0,
        "steps": [{"_target_": "medanomaly.patches.EdgeWeight", "width_mm": 4.0, "spacing": "@spacing"}],
    },
    fast={
        "members": [
            {"detector": "denoising_autoencoder", "features": 8},
            {"detector": "synthetic_anomalies", "features": 8},
        ]
    },
    signed=True,
)
