//! Cases about the end of sandboxes.

use std::net::SocketAddr;

use fed_sandbox::{Event, ExitStatus, RunError, SignalError, spawn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{ADDRESS, READY, World, runtime};

pub(crate) fn end_by_close(world: &World) {
    world.live(async |live| {
        live.start("sleeper", &["sleep", "1000"]).await;
        let other = live.handle.clone();
        live.handle.close().await;
        assert!(!is_process(live.pid));
        assert_eq!(live.events.recv().await, Some(Event::Closed));
        assert_eq!(live.events.recv().await, None);
        let error = other
            .run(live.process("late", &["true"]))
            .await
            .unwrap_err();
        assert!(matches!(error, RunError::Closed { .. }), "{error}");
        assert!(other.connect(SocketAddr::from((ADDRESS, 1))).await.is_err());
    });
}

/// PID 1 is stopped, and so answers nothing, nor sees that its control socket is closed.
pub(crate) fn end_by_close_while_stopped(world: &World) {
    world.live(async |live| {
        let id = live.start("sleeper", &["sleep", "1000"]).await;
        stop(live.pid).await;
        let handle = live.handle.clone();
        let unheard = tokio::spawn(async move { handle.signal(id, 15).await });
        live.handle.close().await;
        assert!(!is_process(live.pid));
        let error = unheard.await.unwrap().unwrap_err();
        assert!(matches!(error, SignalError::Closed { .. }), "{error}");
    });
}

pub(crate) fn end_by_drop(world: &World) {
    let sandbox = spawn(&world.spec()).unwrap();
    let pid = sandbox.pid();
    assert!(is_process(pid));
    drop(sandbox);
    assert!(!is_process(pid));

    let (_tun, inner) = spawn(&world.spec()).unwrap().into_parts();
    let pid = inner.pid();
    let runtime = runtime();
    let kept = runtime.block_on(async { inner.start().unwrap() });
    assert!(is_process(pid));
    drop(runtime);
    assert!(!is_process(pid));
    drop(kept);
}

pub(crate) fn end_of_pid_1(world: &World) {
    world.live(async |live| {
        live.start("sleeper", &["sleep", "1000"]).await;
        // From inside it cannot be killed.
        let id = live
            .start("killer", &["sh", "-c", "kill -9 1; kill -15 1; exit 0"])
            .await;
        assert_eq!(live.end_of(id).await, ExitStatus::Code(0));
        kill(Pid::from_raw(live.pid.cast_signed()), Signal::SIGKILL).unwrap();
        assert_eq!(live.events.recv().await, Some(Event::Closed));
        assert!(!is_process(live.pid));
    });
}

pub(crate) fn end_of_one_of_two(world: &World) {
    let first = spawn(&world.spec()).unwrap();
    let (_tun, second) = spawn(&world.spec()).unwrap().into_parts();
    let (pid, other) = (first.pid(), second.pid());
    let (_first_tun, first) = first.into_parts();
    runtime().block_on(async {
        let (first, mut events) = first.start().unwrap();
        let (second, _events) = second.start().unwrap();
        drop(first);
        assert_eq!(events.recv().await, Some(Event::Closed));
        assert!(!is_process(pid) && is_process(other));
        second.close().await;
        assert!(!is_process(other));
    });
}

pub(crate) fn end_by_kill(world: &World) {
    // Takes the number that PID 1 keeps its own end at, so that a copy of the outer half's end
    // would not be overwritten by chance.
    let _held = std::fs::File::open("/dev/null").unwrap();
    world.live(async |live| {
        let script = "sleep 1000 & setsid sleep 1000 & echo up; wait";
        live.start("family", &["sh", "-c", script]).await;
        assert_eq!(live.first_line("family").await, "up");
        println!("{READY}");
        std::future::pending::<()>().await;
    });
}

/// PID 1 is stopped, and so cannot see that the outer half has ended.
pub(crate) fn end_by_kill_while_stopped(world: &World) {
    world.live(async |live| {
        live.start("sleeper", &["sleep", "1000"]).await;
        stop(live.pid).await;
        println!("{READY}");
        std::future::pending::<()>().await;
    });
}

async fn stop(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).unwrap();
    let stat = format!("/proc/{pid}/stat");
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        tokio::task::yield_now().await;
    }
}

fn is_process(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}
