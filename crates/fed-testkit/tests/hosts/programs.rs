//! Programs in hosts: what they see, how they end, what they leave.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use fed_testkit::{HostUser, Lab, Leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_until;
use crate::wan::{output_of, read_line, role, start, three_hosts};

/// What a shell prints in a host.
fn shell(lab: &Lab, host: &str, script: &str) -> String {
    let mut command = lab.host(host).command("sh");
    command.args(["-c", script]);
    output_of(command)
}

pub(crate) fn names() {
    let lab = three_hosts();
    assert_eq!(shell(&lab, "ecmwf", "hostname"), "ecmwf");
    let known = shell(&lab, "operator", "cat /etc/hosts");
    for host in lab.hosts() {
        assert!(
            known.contains(&format!("{} {}\n", host.addr4(), host.name())),
            "{known}"
        );
    }
    assert_eq!(lab.host("eumetsat").addr4().to_string(), "192.0.2.12");
    assert_eq!(lab.host("eumetsat").addr6().to_string(), "2001:db8::12");
    assert_eq!(shell(&lab, "operator", "cd /usr && pwd"), "/usr");
    let here = std::env::current_dir().unwrap();
    assert_eq!(shell(&lab, "operator", "pwd"), here.to_str().unwrap());
}

pub(crate) fn binds() {
    let machine = tempfile::tempdir().unwrap();
    fs::write(machine.path().join("obs.nc"), "observations").unwrap();
    fs::write(machine.path().join("key"), "secret").unwrap();
    let lab = Lab::builder()
        .host("ecmwf")
        .host("eumetsat")
        .bind("ecmwf", machine.path(), "/fed-test-data/ecmwf")
        .bind_read_only(
            "eumetsat",
            machine.path(),
            "/fed-test-data/archive/eumetsat",
        )
        // Below /etc, which the machine has, and which must stay as it was.
        .bind("ecmwf", machine.path().join("key"), "/etc/fed-test/key")
        .bind("ecmwf", machine.path(), "/etc/fed-test-data")
        .start()
        .unwrap();
    assert_eq!(shell(&lab, "ecmwf", "ls /fed-test-data"), "ecmwf");
    assert_eq!(
        shell(&lab, "ecmwf", "ls /fed-test-data/ecmwf"),
        "key\nobs.nc"
    );
    assert_eq!(shell(&lab, "ecmwf", "cat /etc/fed-test/key"), "secret");
    assert_eq!(
        shell(&lab, "ecmwf", "cat /etc/fed-test-data/obs.nc"),
        "observations"
    );
    assert!(
        shell(&lab, "ecmwf", "cat /etc/hosts").contains("eumetsat"),
        "still in place"
    );
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    assert_eq!(
        shell(&lab, "ecmwf", "cat /etc/passwd"),
        passwd.trim_end(),
        "the rest of /etc"
    );
    let fails = |script| shell(&lab, "eumetsat", script) == "no";
    assert!(fails("ls /fed-test-data/ecmwf || echo no"));
    assert!(fails("ls /etc/fed-test || echo no"));
    assert_eq!(
        shell(
            &lab,
            "eumetsat",
            "cat /fed-test-data/archive/eumetsat/obs.nc"
        ),
        "observations"
    );
    assert!(fails(
        "echo x > /fed-test-data/archive/eumetsat/obs.nc || echo no"
    ));
    shell(&lab, "ecmwf", "echo new > /fed-test-data/ecmwf/new.nc");
    assert_eq!(
        fs::read_to_string(machine.path().join("new.nc")).unwrap(),
        "new\n"
    );
    for path in ["/fed-test-data", "/etc/fed-test", "/etc/fed-test-data"] {
        assert!(!fs::exists(path).unwrap(), "{path} on the machine");
    }
}

pub(crate) fn private() {
    let lab = Lab::builder()
        .host("a")
        .host("b")
        .private("a", "/tmp")
        .start()
        .unwrap();
    assert_eq!(
        shell(&lab, "a", "ls -A /run /tmp /dev/shm"),
        "/dev/shm:\n\n/run:\n\n/tmp:"
    );
    shell(&lab, "a", "touch /run/fed-test /tmp/fed-test-private");
    assert_eq!(shell(&lab, "b", "ls -A /run"), "");
    assert!(lab.host("a").path("/run/fed-test").exists());
    for path in ["/run/fed-test", "/tmp/fed-test-private"] {
        assert!(!fs::exists(path).unwrap(), "{path} on the machine");
    }
    assert_eq!(shell(&lab, "a", "stat -c %a /tmp"), "1777");
}

pub(crate) fn refusals() {
    let builder = || Lab::builder().host("a");
    let cases = [
        (Lab::builder(), "1 to 200 hosts"),
        (builder().host("a"), "two hosts are named \"a\""),
        (builder().host("B"), "no host name"),
        (builder().bind("b", "/usr", "/x"), "there is no host \"b\""),
        (
            builder().bind("a", "/no-such-thing", "/x"),
            "cannot lay out the files of host a",
        ),
        (
            builder().bind("a", "/usr", "x"),
            "cannot lay out the files of host a",
        ),
        (
            builder().wan(fed_testkit::wan::LinkSpec::default().with_loss(2.0)),
            "loss is 2",
        ),
    ];
    for (builder, expected) in cases {
        let error = builder.start().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

pub(crate) fn status() {
    let lab = three_hosts();
    let run = |script: &str| {
        lab.host("ecmwf")
            .command("sh")
            .args(["-c", script])
            .status()
            .unwrap()
    };
    assert_eq!(run("exit 7").code(), Some(7));
    assert_eq!(run("kill -TERM $$").signal(), Some(15));
    assert_eq!(run("kill -SEGV $$").signal(), Some(11));

    let mut command = lab.host("ecmwf").command("sh");
    command.args([
        "-c",
        "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    let (mut child, _output) = start(command, "ready");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));

    let error = lab
        .host("ecmwf")
        .command("/no-such-program")
        .status()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

pub(crate) fn killed() {
    let lab = three_hosts();
    let host = lab.host("ecmwf");
    let (mut child, mut output) = start(role(host, &["unshare"]), "holding");
    let processes = host.processes().unwrap();
    assert_eq!(processes.len(), 1, "{processes:?}");
    assert!(
        processes[0].cmdline.ends_with("--role unshare"),
        "{processes:?}"
    );
    assert_eq!(lab.host("eumetsat").processes().unwrap(), []);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(read_line(&mut output), "", "the program's output is closed");
    wait_until("the program is gone", || {
        host.processes().unwrap().is_empty()
    });
}

pub(crate) fn other_user() {
    let lab = three_hosts();
    // In a user namespace, the caller is the one user there is.
    let id = if is_machine_root() { 65_534 } else { 0 };
    if id == 0 {
        let mut command = lab.host("ecmwf").command("id");
        command.arg("-u");
        assert_eq!(output_of(command), "0");
        return;
    }
    let mut command = lab
        .host("ecmwf")
        .command_as(HostUser { uid: id, gid: id }, "sh");
    command.args(["-c", "id -u; id -G"]);
    assert_eq!(output_of(command), "65534\n65534");
}

/// Whether user 0 is root on the machine, and other users exist.
pub(crate) fn is_machine_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_ascii_whitespace().nth(2) != Some("1")
}

pub(crate) fn orphans() {
    let lab = three_hosts();
    let host = lab.host("ecmwf");
    // A daemon that outlives its parent, and an orphan that ends at once.
    shell(
        &lab,
        "ecmwf",
        "setsid sleep 1000 >/dev/null 2>&1 & (sh -c 'exit 0' &) ; true",
    );
    let zombies = "cat /proc/[0-9]*/stat | grep -c ') Z ' || true";
    wait_until("orphans are reaped", || {
        shell(&lab, "ecmwf", zombies) == "0"
    });
    let cmdlines = || -> Vec<_> {
        host.processes()
            .unwrap()
            .into_iter()
            .map(|process| process.cmdline)
            .collect()
    };
    wait_until("the daemon alone is left", || cmdlines() == ["sleep 1000"]);
    let pid = host.processes().unwrap()[0].pid;
    drop(lab);
    assert!(
        !fs::exists(format!("/proc/{pid}")).unwrap(),
        "it ended with the lab"
    );
}

pub(crate) fn leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let fed = folder.path().join("fed");
    fs::copy(std::env::current_exe().unwrap(), &fed).unwrap();
    let lab = three_hosts();
    let hosts = Leftovers::of_lab(&lab).folder(folder.path());
    let machine = Leftovers::of_machine();
    let (in_hosts, on_machine) = (hosts.snapshot().unwrap(), machine.snapshot().unwrap());
    assert_eq!(hosts.since(&in_hosts).unwrap(), [""; 0]);

    let mut as_fed = lab.host("ecmwf").command(&fed);
    as_fed
        .args(["--role", "tap", "fed-left"])
        .stderr(Stdio::inherit());
    let (mut device, _output) = start(as_fed, "holding");
    let (mut namespace, _output) = start(role(lab.host("operator"), &["unshare"]), "holding");
    fs::create_dir(folder.path().join("state")).unwrap();
    fs::write(folder.path().join("state/lease"), "").unwrap();

    let found = hosts.since(&in_hosts).unwrap();
    let shows = |lines: &[String], part: &str| {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "no {part:?} in {lines:#?}"
        );
    };
    shows(&found, "fed --role tap");
    shows(&found, "network device fed-left in ecmwf");
    shows(&found, "--role unshare");
    shows(&found, "namespace net:[");
    shows(&found, "state/lease");
    let found = machine.since(&on_machine).unwrap();
    shows(&found, "fed --role tap");
    shows(&found, "--role unshare");

    for child in [&mut device, &mut namespace] {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    fs::remove_dir_all(folder.path().join("state")).unwrap();
    assert_eq!(hosts.since(&in_hosts).unwrap(), [""; 0]);
}
