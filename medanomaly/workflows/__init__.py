"""What a user runs, for the shell and for Python alike: a function each, over the bundles."""

from medanomaly.workflows.calibrate import calibrate
from medanomaly.workflows.cohort import benchmark
from medanomaly.workflows.demo import demo
from medanomaly.workflows.evaluate import evaluate
from medanomaly.workflows.publish import publish
from medanomaly.workflows.regions import regions
from medanomaly.workflows.score import score
from medanomaly.workflows.train import train
from medanomaly.workflows.view import view

__all__ = ["benchmark", "calibrate", "demo", "evaluate", "publish", "regions", "score", "train", "view"]
