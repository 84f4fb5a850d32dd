"""The model card of a published bundle: what it is, what it learned from, what its labels mean, what it must not do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medanomaly.evaluation import Calibration
from medanomaly.report.tables import scored_in_words


@dataclass(frozen=True)
class BundleCard:
    """What a model card tells, without a path or the name of a patient.

    Attributes:
        name: of the bundle.
        metadata: of the bundle.
        region: how the region is found, see :class:`medanomaly.preprocessing.RegionMaskd`.
        preparation: the chain that prepares a scan, by its name in ``medanomaly.preprocessing``.
        calibration: of the scores that the labels come from.
        false_positive_rate: share of normal voxels above the threshold of the labels.
        cases: how many cases each section of the training had; None if that is not known.
        training: settings of the training.
        epoch: which was chosen and how, if unlabelled cases chose it.
        keeps_patches: whether the model file holds pieces of training images.
        cautions: what must be known of this very model, see :meth:`medanomaly.detectors.Detector.cautions`.
        modules: that the bundle needs and that neither medanomaly nor MONAI brings.
        versions: of what it was published with.
    """

    name: str
    metadata: Mapping[str, Any]
    region: str
    preparation: str
    calibration: Calibration
    false_positive_rate: float
    cases: Mapping[str, int] | None
    training: Mapping[str, Any]
    epoch: str | None
    keeps_patches: bool
    cautions: Sequence[str]
    modules: Sequence[str]
    versions: Mapping[str, str]

    def text(self) -> str:
        """The card in Markdown."""
        sections = {
            "What it is": self._what(),
            "Learned from": self._learned_from(),
            "Labels and heatmap": self._labels(),
            "How to run it": self._how(),
            "Limits": self._limits(),
            "Settings": self._settings(),
        }
        parts = [f"## {title}\n{body}" for title, body in sections.items()]
        return "\n\n".join([f"# {self.name}", f"**{self.metadata['intended_use']}**", *parts]) + "\n"

    def warnings(self) -> list[str]:
        """What somebody who publishes it must know, for the card and for the terminal."""
        told = []
        if self.keeps_patches:
            told.append(
                "The model file holds pieces of training images as they are: whoever gets it gets these. Publish it "
                "only if you may publish the images."
            )
        told += self.cautions
        if self.modules:
            told.append(f"It needs code that is not in it: {', '.join(self.modules)} must be importable.")
        if self.region == "given":
            told.append(
                "Its region is 'given', so each case must name a mask. MONAI Label gives none: for that, publish it "
                "with --region nonzero (scans that are brain-extracted), or with a command that finds the brain."
            )
        channels = self._input["num_channels"]
        if int(self.calibration.settings.get("in_channels", channels)) > 1:
            told.append("It takes several images a case, and MONAI Label gives one: there, it refuses every scan.")
        if not self.calibration.held_out:
            told.append("Its thresholds come from scans that it was trained on: more of new normal tissue lies above.")
        return told

    @property
    def _input(self) -> Mapping[str, Any]:
        return dict(self.metadata["network_data_format"]["inputs"]["image"])

    def _what(self) -> str:
        references = "".join(f"\n- {reference}" for reference in self.metadata.get("references", []))
        return f"{self.metadata['name']}. {self.metadata['description']} Higher scores are more abnormal.{references}"

    def _learned_from(self) -> str:
        if self.cases is None:
            told = "How many scans it was trained on is not known (it is of an older version)."
        else:
            counts = [f"{number} under `{section}`" for section, number in self.cases.items()]
            told = f"Cases, of whom nothing but their number is in this bundle: {', '.join(counts)}."
        kind = f"Images: {self.metadata['image_classes']}; {self.metadata['data_type']}."
        chosen = "" if self.epoch is None else f"\n\nEpoch {self.epoch}."
        kept = f"\n\n**{self.warnings()[0]}**" if self.keeps_patches else ""
        return f"{told} {kind}\n\nScores are calibrated on {self.calibration.source}.{chosen}{kept}"

    def labels(self) -> str:
        """What the labels mean."""
        rate, threshold = 100 * self.false_positive_rate, self.calibration.voxel_threshold(self.false_positive_rate)
        return f"1 (anomaly) where the score is above {threshold:.4g}, as in {rate:g} % of the voxels of normal cases"

    def _labels(self) -> str:
        lines = [
            f"Labels: {self.labels()}; 0 (background) elsewhere. Of a healthy scan, too, about that share is labelled; "
            "`false_positive_rate` changes it without new training.",
            f"Case threshold: {self.calibration.case_threshold_in_words()}.",
        ]
        scored = scored_in_words(self.calibration.settings)
        return "\n".join(f"- {line}" for line in [*lines, *([f"Scored: {scored}."] if scored else [])])

    def _how(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"With medanomaly installed ({packages}), in the folder of the bundle:\n\n"
            "```\n"
            "python -m monai.bundle run --config_file configs/inference.json --dataset_dir /data/cohort "
            "--output_dir scores\n"
            f"medanomaly score SCAN --model . --output out{' --region MASK' if self.region == 'given' else ''}\n"
            "```\n\n"
            "`/data/cohort` holds a `datalist.json` whose section `test` lists the scans. Each heatmap lies on the "
            "grid of its scan: `CASE_heatmap.nii.gz` has raw scores, `CASE_display.nii.gz` the percentage of normal "
            "voxels that score lower.\n\n"
            "MONAI Label: put the folder into `model/` of the app *monaibundle*. The result is the label map; the "
            "heatmap of each request is kept in `monailabel/` in this folder (`monailabel_dir`; null keeps none). A "
            "bundle is a program: run one only if you trust whom it comes from."
        )

    def _limits(self) -> str:
        lines = [
            str(self.metadata["intended_use"]),
            "It tells what is unlike the scans that it learned from: another scanner, sequence, age or field of view "
            "is unlike them, too. Measure it on your own data before you believe it.",
            "What it was never shown it cannot name: a label is neither a diagnosis nor a segmentation of a lesion.",
            "The weights of any network may hold traces of what it was trained on.",
            "LICENSE is that of medanomaly. What may be done with the weights depends on the data, too: ask whom they "
            "come from.",
        ]
        return "\n".join(f"- {line}" for line in [*lines, *self.warnings()])

    def _settings(self) -> str:
        of = self._input
        shape, (low, high) = " x ".join(map(str, of["spatial_shape"])), of["value_range"]
        prepared = {
            "prepared by": self.preparation,
            "region": self.region,
            "patches": f"{of['num_channels']} channel(s), {shape}, {of['dtype']}, about {low} to {high}",
        }
        rows = {**prepared, **self.calibration.settings, **self.training}
        table = [
            f"| {key} | `{value if isinstance(value, str) else json.dumps(value)}` |" for key, value in rows.items()
        ]
        return "\n".join(["| setting | value |", "|---|---|", *table])
