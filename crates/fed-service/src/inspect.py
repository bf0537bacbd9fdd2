import importlib.metadata
import json
import os
import sys
from importlib.machinery import PathFinder

packages = {}
for name in ("dask", "distributed", "numpy", "pandas", "msgpack", "xarray", "zarr", "netCDF4"):
    try:
        packages[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
compiled = PathFinder.find_spec("fed._fed", [os.path.join(entry, "fed") for entry in sys.path])
executable = sys.executable
roots = {sys.prefix, sys.base_prefix, *filter(os.path.isabs, sys.path)}
roots.add(os.path.dirname(os.path.dirname(os.path.realpath(executable))))
print(
    json.dumps(
        {
            "environment": {
                "executable": executable,
                "version": ".".join(map(str, sys.version_info[:3])),
                "packages": packages,
            },
            "is_compiled": compiled is not None,
            "roots": sorted(root for root in roots if os.path.isdir(root)),
        }
    )
)
