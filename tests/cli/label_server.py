"""What MONAI Label's ``BundleInferTask`` asks of a bundle, in its order, without MONAI Label (it needs other packages).

From reading its sources (version 0.8): it goes by the inference config's ``network_def``, ``preprocessing``,
``inferer`` and ``postprocessing``; handlers, evaluator, ``initialize`` and ``run`` are never looked at.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from monai.bundle import ConfigItem, ConfigParser
from monai.transforms import Compose, Resize, SaveImaged


class LabelServer:
    """A bundle behind a label server."""

    def __init__(self, bundle: Path) -> None:
        self.bundle, self.config = bundle, ConfigParser()
        self.config.read_config(str(bundle / "configs" / "inference.json"))
        self.config.config.update({"bundle_root": str(bundle)})
        self.network = self.config.get_parsed_content("network_def", instantiate=True)
        tensors = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
        self.image_key, self.pred_key = next(iter(tensors["inputs"])), next(iter(tensors["outputs"]))
        names = tensors["outputs"][self.pred_key]["channel_def"]
        self.labels = {name.lower(): int(value) for value, name in names.items() if name.lower() != "background"}
        self.weights = sorted((file.name for file in (bundle / "models").glob("*.pt")), key=len)

    def infer(self, scan: Path, output: Path) -> Path:
        """The label map of a scan, written to ``output``."""
        data: dict[str, Any] = {"model": self.bundle.name, "device": "cpu", "model_filename": self.weights}
        data |= {"image": str(scan), "image_path": str(scan)}
        for transform in self._transforms("preprocessing", "cpu"):
            data = transform(data)
        self._set_device("cpu")
        inferer = self.config.get_parsed_content("inferer", instantiate=True)
        network = copy.deepcopy(self.network).to(torch.device("cpu"))
        content = torch.load(self.bundle / "models" / self.weights[0], map_location="cpu")
        network.load_state_dict(content.get("model", content), strict=False)
        network.eval()
        with torch.no_grad():
            data["pred"] = inferer(data["image"][None].to(torch.device("cpu")), network)[0]
        after = [one for one in self._transforms("postprocessing", "cpu") if not isinstance(one, SaveImaged)]
        for transform in [*after, self._restored]:
            data = transform(data)
        return self._written(data, output)

    def _transforms(self, key: str, device: str) -> list[Any]:
        self._set_device(device)
        found = self.config.get_parsed_content(key, instantiate=True)
        return list(found.transforms) if isinstance(found, Compose) else found

    def _set_device(self, device: str) -> None:
        self.config.config.update({"device": device})
        if self.config.ref_resolver.items.get("device"):
            self.config.ref_resolver.items["device"] = ConfigItem(config=device, id="device")

    def _restored(self, data: dict[str, Any]) -> dict[str, Any]:
        """Its last step: the size that the image's metadata tell, and the affine."""
        meta, result = data[self.image_key].meta, data[self.pred_key]
        size = tuple(meta["spatial_shape"])[-(result.ndim - 1) :]
        if result.shape[1:] != size:
            result = Resize(spatial_size=size, mode="nearest")(result)
        return {**data, self.pred_key: result[0], "pred_meta_dict": {"affine": meta["original_affine"]}}

    def _written(self, data: dict[str, Any], output: Path) -> Path:
        """Its writer: axes turned round for ITK, the affine in LPS."""
        image = SimpleITK.GetImageFromArray(data[self.pred_key].transpose().copy())
        affine = np.diag([-1, -1, 1, 1]) @ data["pred_meta_dict"]["affine"]
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
        SimpleITK.WriteImage(image, str(output))
        return output
