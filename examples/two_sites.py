"""Two calculations over two data centres, whose files stay where they are.

Needs a federation of the sites ``ecmwf`` and ``eumetsat`` (``fed up ecmwf eumetsat``), on which
each sees its own files only. ``cargo xtask demo`` makes both on one machine and runs this.
"""

import fed


def scenarios(open_dataset=fed.open_dataset):
    """Mean temperature of the scenario A1B (at ecmwf) minus that of E1 (at eumetsat), in K."""
    a1b = open_dataset("/data/ecmwf/A1B_north_america.nc", chunks={"time": 24})
    e1 = open_dataset("/data/eumetsat/E1_north_america.nc", chunks={"time": 24})
    return a1b.air_temperature.mean("time") - e1.air_temperature.mean("time")


def predictions(open_dataset=fed.open_dataset):
    """Mean of an ensemble's predictions (at ecmwf) minus observations (at eumetsat), in K."""
    predictions = open_dataset("/data/ecmwf/predictions.nc", chunks={}).air_temperature
    observations = open_dataset("/data/eumetsat/observations.nc", chunks={}).air_temperature
    return predictions.mean("realization").isel(height=10) - observations


if __name__ == "__main__":
    with fed.connect() as client:
        print(client)
        for calculation in (scenarios, predictions):
            difference = calculation().compute()
            print(f"\n{calculation.__doc__}\n{difference}")
