//! Cases about sandboxes that cannot be made.

use std::net::Ipv6Addr;

use fed_sandbox::{SpawnError, Step, Unsupported, check, spawn};
use nix::sys::wait::waitpid;

use crate::world::World;

pub(crate) fn specs_that_fail(world: &World) {
    let good = world.spec();
    let with = |change: &dyn Fn(&mut fed_sandbox::SandboxSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    let missing = world.folder.join("missing/data");
    let said = missing.display().to_string();
    for (spec, wanted, subject) in [
        (
            with(&|spec| spec.read_only.push(missing.clone())),
            Step::Find,
            said.as_str(),
        ),
        (
            with(&|spec| spec.scratch = missing.clone()),
            Step::Find,
            &said,
        ),
        (
            with(&|spec| spec.read_only.push("usr".into())),
            Step::Spec,
            "usr",
        ),
        (
            with(&|spec| spec.read_only.push("/".into())),
            Step::Spec,
            "/",
        ),
        (
            with(&|spec| spec.read_only.push("/proc/1".into())),
            Step::Spec,
            "/proc/1",
        ),
        (
            with(&|spec| spec.tun.name = "much-too-long-name".into()),
            Step::TunMake,
            "much-too-",
        ),
        (
            with(&|spec| spec.tun.name = "lo".into()),
            Step::TunMake,
            "lo",
        ),
        (
            with(&|spec| spec.tun.prefix_len = 129),
            Step::Spec,
            "prefix length 129",
        ),
        (with(&|spec| spec.tun.mtu = 1000), Step::Spec, "MTU 1000"),
        (
            with(&|spec| spec.tun.address = Ipv6Addr::LOCALHOST),
            Step::Network,
            "fedtest0",
        ),
        (
            with(&|spec| spec.hostname = "h".repeat(65)),
            Step::Hostname,
            "hhh",
        ),
        (
            with(&|spec| spec.hostname = "a b".into()),
            Step::Spec,
            "host name \"a b\"",
        ),
        (
            with(&|spec| spec.hosts[0].1 = "a\nb".into()),
            Step::Spec,
            "hosts entry \"a\\nb\"",
        ),
    ] {
        let error = spawn(&spec).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, SpawnError::Step { step, .. } if step == wanted),
            "{text}"
        );
        assert!(text.contains(subject) && text.contains("; "), "{text}");
        assert_eq!(
            waitpid(None, None),
            Err(nix::errno::Errno::ECHILD),
            "{text}"
        );
    }
    drop(spawn(&good).unwrap());
}

pub(crate) fn threads(world: &World) {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let error = spawn(&world.spec()).unwrap_err();
    assert!(matches!(error, SpawnError::Threads { count: 2 }), "{error}");
    check().unwrap();
    drop(end);
    assert!(thread.join().unwrap().is_err());
}

pub(crate) fn refused_namespaces(world: &World) {
    let refusal = check().unwrap_err();
    assert!(
        matches!(&refusal, Unsupported::Limit { limit } if limit == "0"),
        "{refusal}"
    );
    assert!(
        refusal
            .to_string()
            .contains("sysctl -w user.max_user_namespaces")
    );
    let error = spawn(&world.spec()).unwrap_err();
    assert!(matches!(error, SpawnError::Namespaces { .. }), "{error}");
}

pub(crate) fn root_only(world: &World) {
    let refusal = check().unwrap_err();
    assert!(matches!(refusal, Unsupported::RootOnly), "{refusal}");
    assert!(
        refusal
            .to_string()
            .contains("sysctl -w kernel.unprivileged_userns_clone=1")
    );
    let error = spawn(&world.spec()).unwrap_err();
    assert!(matches!(error, SpawnError::Namespaces { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("kernel.unprivileged_userns_clone=1")
    );
}

pub(crate) fn contained(world: &World) {
    let refusal = check().unwrap_err();
    assert!(
        matches!(refusal, Unsupported::Namespaces { .. }),
        "{refusal}"
    );
    assert!(
        refusal
            .to_string()
            .contains("--security-opt seccomp=unconfined")
    );
    let error = spawn(&world.spec()).unwrap_err();
    assert!(matches!(error, SpawnError::Namespaces { .. }), "{error}");
}

/// Namespaces can be made, but nothing may be done in them.
pub(crate) fn apparmor(world: &World) {
    let refusal = check().unwrap_err();
    assert!(matches!(refusal, Unsupported::AppArmor), "{refusal}");
    let text = refusal.to_string();
    assert!(
        text.contains("deploy/apparmor/fed") && text.contains("apparmor_parser -r"),
        "{text}"
    );
    let error = spawn(&world.spec()).unwrap_err();
    assert!(
        matches!(
            error,
            SpawnError::Step {
                step: Step::TunMake,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("deploy/apparmor/fed"), "{error}");
    assert_eq!(waitpid(None, None), Err(nix::errno::Errno::ECHILD));
}

pub(crate) fn refused_tun(world: &World) {
    let refusal = check().unwrap_err();
    assert!(matches!(refusal, Unsupported::TunForbidden), "{refusal}");
    assert!(refusal.to_string().contains("chmod 0666 /dev/net/tun"));
    let error = spawn(&world.spec()).unwrap_err();
    assert!(
        matches!(
            error,
            SpawnError::Step {
                step: Step::TunOpen,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("chmod 0666 /dev/net/tun"));
}

pub(crate) fn missing_tun(world: &World) {
    let refusal = check().unwrap_err();
    assert!(
        matches!(refusal, Unsupported::TunMissing { .. }),
        "{refusal}"
    );
    assert!(refusal.to_string().contains("modprobe tun"));
    let error = spawn(&world.spec()).unwrap_err();
    assert!(error.to_string().contains("modprobe tun"), "{error}");
}
