from tests.detectors.catalogue.entry import Entry, learners

ENTRY = Entry(
    "pca",
    variants=({"n_components": 8},),
    learners=learners({"n_components": 8}, (1, 2, 0), (3, 2, 0), (1, 3, 0)),
    own_settings={"n_components": 4, "max_samples": 12},
    fitted=True,
    random=False,
)
