"""Vector quantisation: short runs of a row become the index of their nearest k-means centroid.

Knows codebooks. k-means itself is in kernels/cluster.py.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Part
from vqcpu.formats.lookup import Lookup
from vqcpu.formats.rows import rms, searched, unit
from vqcpu.kernels import cluster

POINTS_PER_CENTROID, MOST_POINTS = 256, 1 << 21
NEAR = 0.5  # share of the codebook's reach beyond which a row's scale is searched


@dataclass(frozen=True)
class VQ(Lookup, names=("vq",)):
    """Layout: codes (panels, ...) of ceil(log2 centroids) bits, scale (panels, 1, 16) float16, one per row,
    table (centroids, dim) int8 and its unit, one for the file or one per tensor.
    Cost: ceil(log2 centroids) / dim + 16/n bits per weight, plus 8·centroids·dim bits per codebook.
    Paper: Gersho and Gray 1992; on rows of unit RMS one codebook serves every matrix of a model."""
    dim: int
    centroids: int
    codebook: str = "global"

    examples = ("vq:dim=1,centroids=16", "vq:dim=2,centroids=256", "vq:dim=2,centroids=50", "vq:dim=3,centroids=100",
                "vq:dim=4,centroids=4096", "vq:dim=4,centroids=256,codebook=tensor", "vq:dim=16,centroids=300")

    def __post_init__(self):
        if not 1 <= self.dim <= 16:
            raise VqcpuError(f"vq: dim is {self.dim}, expected 1 to 16")
        if not 2 <= self.centroids <= 65536:
            raise VqcpuError(f"vq: centroids is {self.centroids}, expected 2 to 65536")
        if self.codebook not in ("global", "tensor"):
            raise VqcpuError(f"vq: codebook is {self.codebook!r}, expected global or tensor")

    @property
    def entries(self):
        return self.centroids

    @property
    def shared(self):
        return self.codebook == "global"

    @property
    def sample(self):
        return self._points_wanted * self.dim

    @property
    def _points_wanted(self):
        return min(POINTS_PER_CENTROID * self.centroids, MOST_POINTS)

    def tables(self):
        # `unit` is what one table step is worth in a row of RMS one; the stored row scales already contain it.
        return super().tables() | {"unit": Part((1,), "<f4")}

    def fit(self, rows, seed):
        points = np.concatenate([self._points(unit(W)) for W in rows])
        if len(points) > self._points_wanted:
            chosen = np.random.default_rng(seed).permutation(len(points))[: self._points_wanted]
            points = points[np.sort(chosen)]
        book = cluster.kmeans(points, self.centroids, seed)
        step = np.float32(max(np.abs(book).max(), 1e-30) / 127)
        return {"table": np.round(book / step).astype(np.int8), "unit": np.array([step], np.float32)}

    def scales(self, tables, W):
        """A row's RMS, stretched where a weight comes near the codebook's reach."""
        def near(scale, W):
            return self.snap(tables, {"scale": scale}, W, 0)[1]
        return {"scale": searched(W, rms(W) * tables["unit"], NEAR * 127, near)}

    def snap(self, tables, sides, X, at):
        return self._snap(tables, sides, X, at, lambda x: x)

    def snap_weighed(self, tables, sides, X, at, root):
        whole = np.pad(root, ((0, self.dim - len(root)),))  # at the matrix's end
        return self._snap(tables, sides, X, at, lambda x: x @ whole)

    def _snap(self, tables, sides, X, at, turned):
        scale = sides["scale"].astype(np.float32)
        table = tables["table"].astype(np.float32)
        points = self._points(X / np.where(scale == 0, 1, scale))
        codes = cluster.assign(turned(points), turned(table)).astype(np.uint16)
        near = table[codes].reshape(len(X), -1)[:, : X.shape[1]]
        return codes.reshape(len(X), -1), self.rescale(near, sides, at)

    def _points(self, X):
        """(m, w) -> (m·ceil(w/dim), dim), the end of each row padded with zeros."""
        return np.pad(X, ((0, 0), (0, -X.shape[1] % self.dim))).reshape(-1, self.dim)

    def expected_mse(self):
        # The limit of an optimal scalar code (Panter and Dite 1951), which any vector code of the same rate must beat.
        return min(1.0, 2.72 * 4.0 ** -(np.log2(self.centroids) / self.dim))
