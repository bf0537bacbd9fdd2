//! The cases: their names and their callers.

use fed_sandbox::check;

use crate::caller::Caller;
use crate::world::World;
use crate::{ends, limits, network, processes, refusals, views};

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// It ends by itself.
    Ends(fn(&World)),
    /// It says [`READY`](crate::world::READY), and is killed then.
    Killed(fn(&World)),
}

#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    only: Option<&'static [Caller]>,
}

const fn case(name: &'static str, run: fn(&World)) -> Case {
    Case {
        name,
        kind: Kind::Ends(run),
        only: None,
    }
}

const fn refused(name: &'static str, run: fn(&World), only: &'static [Caller]) -> Case {
    Case {
        name,
        kind: Kind::Ends(run),
        only: Some(only),
    }
}

pub(crate) fn all() -> Vec<Case> {
    vec![
        case("network", views::network),
        case("powers", views::powers),
        case("files", views::files),
        case("own_etc", views::own_etc),
        case("exits", processes::exits),
        case("starts_that_fail", processes::starts_that_fail),
        case("orphans", processes::orphans),
        case("groups", processes::groups),
        case("sockets", network::sockets),
        case("packets", network::packets),
        case("memory", limits::memory),
        case("headless", limits::headless),
        case("vfork", limits::vfork),
        case("numbers", limits::numbers),
        case("families", limits::families),
        case("multiplication", limits::multiplication),
        case("scratch", limits::scratch),
        case("out_of_memory", limits::out_of_memory),
        case("check_passes", |_| check().unwrap()),
        case("end_by_close", ends::end_by_close),
        case(
            "end_by_close_while_stopped",
            ends::end_by_close_while_stopped,
        ),
        case("end_by_drop", ends::end_by_drop),
        case("end_of_pid_1", ends::end_of_pid_1),
        case("end_of_one_of_two", ends::end_of_one_of_two),
        Case {
            name: "end_by_kill",
            kind: Kind::Killed(ends::end_by_kill),
            only: None,
        },
        Case {
            name: "end_by_kill_while_stopped",
            kind: Kind::Killed(ends::end_by_kill_while_stopped),
            only: None,
        },
        case("specs_that_fail", refusals::specs_that_fail),
        case("threads", refusals::threads),
        refused(
            "refused_namespaces",
            refusals::refused_namespaces,
            &[Caller::Powerless],
        ),
        refused("root_only", refusals::root_only, &[Caller::Debian]),
        refused("contained", refusals::contained, &[Caller::Contained]),
        refused("apparmor", refusals::apparmor, &[Caller::Restricted]),
        refused("refused_tun", refusals::refused_tun, &[Caller::NoTun]),
        refused("missing_tun", refusals::missing_tun, &[Caller::Driverless]),
    ]
}

impl Case {
    /// Whom it is to run as.
    pub(crate) fn callers(&self) -> &'static [Caller] {
        self.only.unwrap_or_else(Caller::usual)
    }
}

/// Runs the case that this process was started for.
pub(crate) fn run(world: &World) {
    world.caller.assume(world);
    let case = all()
        .into_iter()
        .find(|case| case.name == world.case)
        .unwrap();
    match case.kind {
        Kind::Ends(run) | Kind::Killed(run) => run(world),
    }
}
