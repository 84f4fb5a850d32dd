"""The classifier of the augmentation study: MONAI's DenseNet-121 on films of one channel."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DenseNet121
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from medanomaly.experiments.augmentation_films import Films
from medanomaly.patches.layout import channels_last, prepare_network
from medanomaly.training.checkpoints import load_checkpoint, save_whole


def trained_classifier(
    training: Films, validation: Films, epoch_films: int, seed: int, options: Mapping[str, Any], file: Path
) -> tuple[DenseNet121, dict[str, float]]:
    """A classifier that tells the class 1 from 0, in eval mode, and how it was trained; that of ``file`` if it exists.

    The weights kept are those of the epoch with the highest AUC on held-out real films. All randomness comes from
    ``seed`` alone, so what was drawn before, such as synthetic films that are not used, changes nothing.

    Args:
        training: real films, and maybe synthetic ones.
        validation: real films of other patients.
        epoch_films: that an epoch draws of the training films: the number of real ones.
        seed: of the weights and of the order of the films.
        options: ``epochs`` (at most), ``patience`` (epochs without a higher AUC), ``batch_size``, ``learning_rate``,
            ``amp`` (bfloat16).
        file: gets both.
    """
    torch.manual_seed(seed)
    network = new_classifier()
    if file.exists():
        saved = load_checkpoint(file)
        network.load_state_dict(saved["weights"])
        return network.eval(), dict(saved["record"])
    start, device = time.perf_counter(), next(network.parameters()).device
    adam = torch.optim.Adam(network.parameters(), lr=options["learning_rate"])
    weights, record = copy.deepcopy(network.state_dict()), {"epoch": 0.0, "validation_auc": -1.0}
    for epoch in range(1, options["epochs"] + 1):
        torch.manual_seed(seed * 1_000_003 + epoch)
        network.train()
        # as many as there are real films, so that rows with more synthetic ones do not learn for longer
        drawn = torch.randperm(len(training.images))[:epoch_films]
        for chosen in drawn.split(options["batch_size"]):
            if len(chosen) == 1:
                continue  # batch norm needs two
            images, labels = channels_last(training.images[chosen].to(device)), training.labels[chosen].to(device)
            adam.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=options["amp"]):
                logits = network(images)[:, 0]
            F.binary_cross_entropy_with_logits(logits.float(), labels.float()).backward()
            adam.step()
        auc = float(roc_auc_score(validation.labels.numpy(), probabilities(network, validation.images).numpy()))
        if auc > record["validation_auc"]:
            weights, record = copy.deepcopy(network.state_dict()), {"epoch": float(epoch), "validation_auc": auc}
        elif epoch - record["epoch"] >= options["patience"]:
            break
    network.load_state_dict(weights)
    record["seconds"] = round(time.perf_counter() - start, 1)
    save_whole({"weights": weights, "record": record}, file)
    return network.eval(), record


def new_classifier() -> DenseNet121:
    """With weights from torch's global generator, on the GPU if there is one."""
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1)
    prepare_network(network)
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def probabilities(network: DenseNet121, images: Tensor) -> Tensor:
    """Of the class 1, (n,), for images (n, 1, s, s), on the CPU; each image by itself."""
    network.eval()
    device = next(network.parameters()).device
    batches = [network(channels_last(batch.to(device)))[:, 0] for batch in images.split(64)]
    return torch.cat(batches).sigmoid().cpu()


@torch.no_grad()
def features_of(network: DenseNet121, images: Tensor) -> Tensor:
    """What the last layer sees, (n, 1024), for images (n, 1, s, s), on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    head = network.class_layers[:-1]
    return torch.cat([head(network.features(channels_last(batch.to(device)))).cpu() for batch in images.split(64)])
