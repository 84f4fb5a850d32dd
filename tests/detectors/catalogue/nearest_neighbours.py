from tests.detectors.catalogue.entry import Entry, learners

ENTRY = Entry(
    "nearest_neighbours",
    variants=({},),
    learners=learners({}, (1, 2, 0), (3, 2, 0), (1, 3, 0)),
    own_settings={"n_neighbours": 3, "max_samples": 12},
    fitted=True,
    random=False,
)
