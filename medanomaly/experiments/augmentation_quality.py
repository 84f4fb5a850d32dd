"""How synthetic films lie among real ones: clustering indices, Fréchet and kernel distance, nearest training film.

All but the last are measured on the first principal components of what a frozen network sees. Silhouette,
Davies-Bouldin and Calinski-Harabasz are those of scikit-learn. Where the labels are "real" and "synthetic", a
silhouette near 0, a high Davies-Bouldin and a low Calinski-Harabasz index say that the two cannot be told apart; where
they are the classes of synthetic films, the indices should be those of real films: higher ones may come from films that
are all alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.metrics.fid import get_fid_score
from monai.networks.nets import DenseNet121
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor

from medanomaly.experiments.augmentation_classifier import features_of

COMPONENTS = 64
Floats = NDArray[np.float64]


class FrozenFeatures:
    """Principal components of the features of a frozen classifier, fitted to real training films."""

    def __init__(self, network: DenseNet121, training: Tensor) -> None:
        self.network = network
        self.components = PCA(min(COMPONENTS, len(training) // 2), svd_solver="full").fit(self._of(training))

    def __call__(self, images: Tensor) -> Floats:
        """Images (n, 1, s, s) to (n, components)."""
        found: Floats = self.components.transform(self._of(images))
        return found

    def _of(self, images: Tensor) -> Floats:
        return np.asarray(features_of(self.network, images).double().numpy())


def quality(
    features: FrozenFeatures, made: Mapping[int, Tensor], real: Mapping[int, Tensor], training: Mapping[int, Tensor]
) -> dict[str, Any]:
    """What the module's text says, of films ``made`` beside real ones that were held out.

    Args:
        features: of a frozen network.
        made: synthetic films of each class, or, to have something to compare with, held-out real ones.
        real: of each class, what they lie among: held-out films, or training films, if those are what is compared. As
            many of both are taken as there are of the fewer.
        training: the films of each class that a generator learned from.
    """
    n = {label: min(len(made[label]), len(real[label])) for label in real}
    of_made, of_real = ([features(part[label][: n[label]]) for label in n] for part in (made, real))
    classes = np.repeat(list(n), list(n.values()))
    all_made, all_real = np.concatenate(of_made), np.concatenate(of_real)
    origin = np.repeat([0, 1], len(classes))
    return {
        "real_or_synthetic": indices(np.concatenate([all_real, all_made]), origin),
        "classes": indices(all_made, classes),
        "frechet": frechet(all_made, all_real),
        "kernel": kernel_distance(all_made, all_real),
        "nearest_training": float(np.median(np.concatenate([_distances(made, training, n, label) for label in n]))),
        "films": len(classes),
    }


def indices(features: Floats, labels: NDArray[Any]) -> dict[str, float]:
    """The three indices of features (n, f) under labels (n,)."""
    return {
        "silhouette": float(silhouette_score(features, labels)),
        "davies_bouldin": float(davies_bouldin_score(features, labels)),
        "calinski_harabasz": float(calinski_harabasz_score(features, labels)),
    }


def frechet(a: Floats, b: Floats) -> float:
    """Fréchet distance of the normal distributions of features (n, f) and (m, f) (FID, Heusel et al. 2017)."""
    return float(get_fid_score(torch.from_numpy(a), torch.from_numpy(b)))


def kernel_distance(a: Floats, b: Floats) -> float:
    """Squared maximum mean discrepancy, unbiased, with the kernel (x.y / f + 1)^3 (KID, Binkowski et al. 2018)."""

    def within(x: Floats) -> float:
        kernel = polynomial_kernel(x, degree=3, coef0=1)
        return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(polynomial_kernel(a, b, degree=3, coef0=1).mean())


def nearest(images: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image, the root mean squared difference to the nearest training image, and which that is: (n,) each."""
    difference = torch.cdist(images.flatten(1), training.flatten(1)) / images[0].numel() ** 0.5
    found = difference.min(dim=1)
    return found.values, found.indices


def _distances(
    made: Mapping[int, Tensor], training: Mapping[int, Tensor], n: Mapping[int, int], label: int
) -> NDArray[Any]:
    return np.asarray(nearest(made[label][: n[label]], training[label])[0].numpy())
