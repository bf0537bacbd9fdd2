"""What happens to a federation: each takes a world in which one comes up or computes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.world import World

VICTIM = "ecmwf"
"""The site to which things happen; the other one goes on."""


def _network(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _node(world: World, host: str, *, outer: bool) -> int:
    """Return a half of the node on a host: the outer one is in the host's own network."""
    own = _network(world.lab[host].pid)

    def found() -> list[int]:
        pids = world.pids(host, r"fed node")
        return [pid for pid in pids if (_network(pid) == own) == outer]

    return until(found)[0]


def _operator(world: World) -> int:
    return world.pids("operator", r"fed .*\bup ecmwf")[0]


def _agent(world: World) -> int:
    return world.pids(VICTIM, r"fed agent run")[0]


def _scheduler(world: World) -> int:
    return until(lambda: world.pids("operator", r"dask_scheduler"))[0]


def _nanny(world: World) -> int:
    return until(lambda: world.pids(VICTIM, rf"dask_worker.* --name {VICTIM}-1-"))[0]


def _worker(world: World) -> int:
    """Return the process that a nanny looks after."""
    (worker,) = until(lambda: world.pids(VICTIM, r"multiprocessing.*spawn_main"))
    return worker


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def kill_operator(world: World) -> None:
    """``kill -9`` of `fed up`."""
    _kill(_operator(world))


def kill_agent(world: World) -> None:
    """``kill -9`` of a site's agent, which nobody starts again."""
    world.sites[VICTIM].end()


def restart_agent(world: World) -> None:
    """A restart of a site's agent, as ``systemctl restart`` does it."""
    world.sites[VICTIM].end(signal.SIGTERM)
    world.sites[VICTIM].start()


def kill_outer_node(world: World) -> None:
    """``kill -9`` of the half of a site's node that holds the mesh."""
    _kill(_node(world, VICTIM, outer=True))


def kill_inner_node(world: World) -> None:
    """``kill -9`` of the first process of a site's sandbox."""
    _kill(_node(world, VICTIM, outer=False))


def kill_operators_outer_node(world: World) -> None:
    """``kill -9`` of the half of the operator's node that holds the mesh."""
    _kill(_node(world, "operator", outer=True))


def kill_operators_inner_node(world: World) -> None:
    """``kill -9`` of the first process of the scheduler's sandbox."""
    _kill(_node(world, "operator", outer=False))


def kill_scheduler(world: World) -> None:
    """``kill -9`` of the scheduler."""
    _kill(_scheduler(world))


def kill_nanny(world: World) -> None:
    """``kill -9`` of a worker with the process that looks after it."""
    _kill(_nanny(world))


def kill_worker(world: World) -> None:
    """``kill -9`` of a worker, as when memory runs out."""
    _kill(_worker(world))


def cut_briefly(world: World) -> None:
    """A site is cut off from all others for three seconds."""
    cut_off(world)
    _after(3.0)
    mend(world)


def cut_off(world: World) -> None:
    """A site is cut off from all others, and stays so."""
    for other in _others(world):
        world.lab.cut(VICTIM, other)


def cut_control_briefly(world: World) -> None:
    """The control connection to a site (TCP) is cut for three seconds."""
    cut_control(world)
    _after(3.0)
    mend(world)


def cut_control(world: World) -> None:
    """The control connection to a site (TCP) is cut, and stays so."""
    world.lab.cut(VICTIM, "operator", "tcp")


def cut_mesh_briefly(world: World) -> None:
    """The mesh of a site (UDP) is cut for three seconds."""
    cut_mesh(world)
    _after(3.0)
    mend(world)


def cut_mesh(world: World) -> None:
    """The mesh of a site (UDP) is cut, and stays so; TCP passes."""
    for other in _others(world):
        world.lab.cut(VICTIM, other, "udp")


def mend(world: World) -> None:
    """Undo every cut."""
    for other in _others(world):
        world.lab.mend(VICTIM, other)


def _others(world: World) -> list[str]:
    return [host for host in world.lab.hosts if host != VICTIM]


def stop_agent_briefly(world: World) -> None:
    """SIGSTOP of a site's agent, and SIGCONT three seconds later: shorter than the lease."""
    _stop_for(3.0, _agent(world))


def stop_outer_node_briefly(world: World) -> None:
    """SIGSTOP of a site's node, and SIGCONT three seconds later: shorter than the lease."""
    _stop_for(3.0, _node(world, VICTIM, outer=True))


def stop_operators_outer_node_briefly(world: World) -> None:
    """SIGSTOP of the operator's node, and SIGCONT three seconds later: shorter than the lease."""
    _stop_for(3.0, _node(world, "operator", outer=True))


def stop_scheduler_briefly(world: World) -> None:
    """SIGSTOP of the scheduler, and SIGCONT three seconds later: shorter than the lease."""
    _stop_for(3.0, _scheduler(world))


def stop_inner_node_briefly(world: World) -> None:
    """SIGSTOP of a sandbox's PID 1, and SIGCONT three seconds later: shorter than the lease."""
    _stop_for(3.0, _node(world, VICTIM, outer=False))


def stop_worker_briefly(world: World) -> None:
    """SIGSTOP of a worker, and SIGCONT three seconds later: shorter than the lease."""
    _stop_for(3.0, _worker(world))


def stop_operator_briefly(world: World) -> None:
    """SIGSTOP of `fed up`, and SIGCONT three seconds later: shorter than the lease."""
    _stop_for(3.0, _operator(world))


def stop_operator_beyond_the_lease(world: World) -> None:
    """SIGSTOP of `fed up` until the sites have ended the federation, and SIGCONT then."""
    pid = _operator(world)
    os.kill(pid, signal.SIGSTOP)
    try:
        for site in world.sites.values():
            until(lambda site=site: site.federations, lambda left: not left)  # type: ignore[misc]
    finally:
        os.kill(pid, signal.SIGCONT)


def stop_agent_beyond_the_lease(world: World) -> None:
    """SIGSTOP of a site's agent until its node has ended with the lease, and SIGCONT then."""
    pid = _agent(world)
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: world.pids(VICTIM, r"fed node"), lambda left: not left)
    finally:
        os.kill(pid, signal.SIGCONT)


def stop_outer_node(world: World) -> None:
    """SIGSTOP of the half of a site's node that holds the mesh, for ever."""
    os.kill(_node(world, VICTIM, outer=True), signal.SIGSTOP)


def stop_operators_outer_node(world: World) -> None:
    """SIGSTOP of the half of the operator's node that holds the mesh, for ever."""
    os.kill(_node(world, "operator", outer=True), signal.SIGSTOP)


def stop_inner_node(world: World) -> None:
    """SIGSTOP of the first process of a site's sandbox, for ever."""
    os.kill(_node(world, VICTIM, outer=False), signal.SIGSTOP)


def stop_inner_node_without_agent(world: World) -> None:
    """SIGSTOP of the first process of a site's sandbox, while its agent is away."""
    stop_inner_node(world)
    world.sites[VICTIM].end(signal.SIGTERM)


def stop_operators_outer_node_and_kill_operator(world: World) -> None:
    """SIGSTOP of the operator's node, for ever, and ``kill -9`` of `fed up`."""
    stop_operators_outer_node(world)
    kill_operator(world)


def stop_operators_inner_node_and_kill_operator(world: World) -> None:
    """SIGSTOP of the first process of the scheduler's sandbox, and ``kill -9`` of `fed up`."""
    os.kill(_node(world, "operator", outer=False), signal.SIGSTOP)
    kill_operator(world)


def await_end_of_node(world: World) -> None:
    """Wait until a site's node has ended, by itself where there is no agent."""
    until(lambda: world.pids(VICTIM, r"fed node"), lambda left: not left)


def stop_scheduler_beyond_the_lease(world: World) -> None:
    """SIGSTOP of the scheduler, and SIGCONT 12 seconds later: longer than the lease."""
    _stop_for(12.0, _scheduler(world))


def stop_worker_beyond_the_lease(world: World) -> None:
    """SIGSTOP of a worker, and SIGCONT 12 seconds later: longer than the lease."""
    _stop_for(12.0, _worker(world))


def freeze_site(world: World) -> None:
    """All of a site stands still for 12 seconds, as when its host sleeps: longer than the lease."""
    pids = [process.pid for process in world.lab.processes(VICTIM)]
    _stop_for(12.0, *pids)


def _stop_for(seconds: float, *pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    _after(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _after(seconds: float) -> None:
    """Let time pass: it is what happens here."""
    from time import sleep

    sleep(seconds)
