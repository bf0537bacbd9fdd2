"""Compares all results with plain xarray's, and draws them: ``compare.py RESULTS MAP``."""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr

mpl.use("agg")

from matplotlib import pyplot as plt

TERMS = {"scenarios": 240, "predictions": 18}
"""Values in each mean."""
HOTTEST = 330.0
"""Bound of all temperatures, in K."""
UNIT_ROUNDOFF = 2.0**-24
"""Of float32, in which the data and its means are."""
TITLES = {
    "scenarios": "Mean air temperature 1860 to 2099: scenario A1B minus E1",
    "predictions": "Air temperature: mean of the predictions minus observations",
}


def error(results: Path, name: str, way: str) -> float:
    """Return the largest difference from plain xarray, in K; exit where the axes differ."""
    expected = xr.load_dataarray(results / "reference" / f"{name}.nc")
    found = xr.load_dataarray(results / way / f"{name}.nc")
    same_axes = found.dims == expected.dims and all(
        found[axis].equals(expected[axis]) for axis in expected.dims
    )
    if not same_axes or not np.isfinite(found).all():
        sys.exit(f"{name}, {way}: other axes than plain xarray's, or no numbers: {found}")
    return float(abs(found.astype("f8") - expected.astype("f8")).max())


def compare(results: Path, name: str) -> dict[str, float]:
    """Return the errors of both ways, and the bound on the rounding error of a mean."""
    return {
        "federated": error(results, name, "federated"),
        "remote_read": error(results, name, "remote"),
        "rounding": TERMS[name] * UNIT_ROUNDOFF * HOTTEST,
    }


def draw(results: Path, target: Path) -> None:
    """Draw what the federation computed, a map for each calculation."""
    figure, panels = plt.subplots(2, 1, figsize=(9, 10), layout="constrained")
    for panel, (name, title) in zip(panels, TITLES.items(), strict=True):
        difference = xr.load_dataarray(results / "federated" / f"{name}.nc")
        largest = float(abs(difference).max())
        colours = panel.pcolormesh(
            difference.longitude,
            difference.latitude,
            difference,
            cmap="RdBu_r",
            vmin=-largest,
            vmax=largest,
            shading="nearest",
        )
        panel.set_title(title)
        panel.set_xlabel("longitude (degrees east)")
        panel.set_ylabel("latitude (degrees north)")
        figure.colorbar(colours, ax=panel, label="difference (K)")
    figure.savefig(target, dpi=120)


def main() -> None:
    """Print the comparison as JSON."""
    results, target = Path(sys.argv[1]), Path(sys.argv[2])
    print(json.dumps({name: compare(results, name) for name in TERMS}))
    draw(results, target)


if __name__ == "__main__":
    main()
