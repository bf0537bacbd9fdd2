"""Connects to a federation: an ordinary `distributed.Client`, through the gateway."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from distributed import Client
from distributed.security import Security

from fed import _dask_private as dask_private
from fed.context import current_pool, pinning
from fed.errors import NotRunningError
from fed.federation import Federation, find
from fed.names import pools_in
from fed.versions import check_versions

if TYPE_CHECKING:
    import os
    from contextlib import AbstractContextManager


class FedClient(Client):
    """A `distributed.Client` that knows which federation it is connected to.

    Parameters
    ----------
    federation
        The federation.
    **kwargs
        Passed on to `distributed.Client`.
    """

    def __init__(self, federation: Federation, **kwargs: Any) -> None:
        check_versions(federation)
        self.federation = federation
        security = Security(
            tls_ca_file=str(federation.ca),
            tls_client_cert=str(federation.certificate),
            tls_client_key=str(federation.key),
            require_encryption=True,
        )
        # Workers are reachable inside the mesh only, so every result comes by the gateway.
        kwargs.setdefault("direct_to_workers", False)
        super().__init__(federation.scheduler, security=security, **kwargs)

    @property
    def dashboard_link(self) -> str | None:
        """URL of the dashboard at the gateway, with its token."""
        return self.federation.dashboard

    def __repr__(self) -> str:
        info = dask_private.scheduler_identity(self)
        return (
            f"<fed.Client: federation {self.federation.name!r} at {self.federation.scheduler},"
            f" processes={info.get('n_workers', 0)} threads={info.get('total_threads', 0)},"
            f" dashboard={self.dashboard_link}>"
        )

    def submit(self, func: Any, *args: Any, resources: Any = None, **kwargs: Any) -> Any:
        """Submit one call, as `distributed.Client.submit` does.

        A pool among ``resources`` becomes a part of the key, so that the call is not taken for
        an earlier one without that pool.
        """
        with _pool_in(resources):
            return super().submit(func, *args, resources=resources, **kwargs)

    def map(self, func: Any, *iterables: Any, resources: Any = None, **kwargs: Any) -> Any:
        """Submit one call per element, as `distributed.Client.map` does; see `submit`."""
        with _pool_in(resources):
            return super().map(func, *iterables, resources=resources, **kwargs)

    def refresh(self) -> Federation:
        """Read the federation's description anew; keep the old one if it has gone."""
        try:
            self.federation = Federation.read(self.federation.source)
        except NotRunningError:
            return self.federation
        return self.federation


def _pool_in(resources: Any) -> AbstractContextManager[None]:
    pools = pools_in(resources)
    if len(pools) != 1 or current_pool() is not None:
        return nullcontext()
    (name,) = pools
    return pinning(name)


def connect(
    name: str | None = None,
    *,
    state: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> FedClient:
    """Connect to a running federation.

    Parameters
    ----------
    name
        Name of the federation; by default, the only one that is running.
    state
        The operator's state folder; by default ``$FED_STATE_DIR``, else
        ``$XDG_STATE_HOME/fed``, else ``~/.local/state/fed``.
    **kwargs
        Passed on to `distributed.Client`, such as ``asynchronous=True`` or ``timeout="10s"``.

    Returns
    -------
    FedClient
        A `distributed.Client`, which is the default one from now on. With
        ``asynchronous=True`` it has to be awaited.

    Raises
    ------
    NotRunningError
        If it is not running, or no name is given and not exactly one is running.
    OtherVersionError
        If this process has another Dask, or another Python, than the federation.
    """
    return FedClient(find(name, state), **kwargs)


def current_client() -> Client:
    """Return the client that work is submitted to.

    Raises
    ------
    NotRunningError
        If there is none.
    """
    try:
        return Client.current()
    except ValueError as error:
        raise NotRunningError(
            "there is no Dask client in this process. Call fed.connect() first.", name=None
        ) from error


def current_fed_client() -> FedClient | None:
    """Return the current client if `connect` made it."""
    try:
        client = Client.current()
    except ValueError:
        return None
    return client if isinstance(client, FedClient) else None


def stats(client: Client | None = None) -> Any:
    """Return what ran where, as the federation's scheduler has counted it.

    Parameters
    ----------
    client
        The client; by default the current one.

    Returns
    -------
    dict
        See `fed.counters.PoolCounters.stats`. An awaitable of it, for an asynchronous client.
    """
    client = client or current_client()
    return client.sync(client.scheduler.fed_stats)


def traffic(client: Client | None = None) -> Any:
    """Return the bytes that have crossed between pools, beside what was expected to.

    Parameters
    ----------
    client
        The client; by default the current one.

    Returns
    -------
    dict
        See `fed.ledger.Ledger.traffic`. An awaitable of it, for an asynchronous client.
    """
    client = client or current_client()
    return client.sync(client.scheduler.fed_traffic)
