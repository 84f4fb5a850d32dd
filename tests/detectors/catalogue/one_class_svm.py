from tests.detectors.catalogue.entry import Entry, learners

ENTRY = Entry(
    "one_class_svm",
    variants=({},),
    learners=learners({}, (1, 2, 0), (3, 2, 0), (1, 3, 0)),
    own_settings={"nu": 0.1, "max_samples": 12},
    fitted=True,
    random=False,
)
