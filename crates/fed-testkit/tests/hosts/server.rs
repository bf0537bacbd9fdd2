//! The program `fed-lab`, as other languages use it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use fed_testkit::{HostUser, Lab};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::programs::is_machine_root;
use crate::wait_until;
use crate::wan::{output_of, start};

const FED_LAB: &str = env!("CARGO_BIN_EXE_fed-lab");

/// A running `fed-lab serve`.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    hosts: Value,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self {
            input: child.stdin.take(),
            child,
            output,
            hosts: Value::Null,
        };
        server.hosts = server.read()["hosts"].take();
        server
    }

    fn of_two_hosts(folder: &Path) -> Self {
        let spec = folder.join("lab.json");
        let hosts = json!([{"name": "a", "private": ["/data"]}, {"name": "b"}]);
        fs::write(
            &spec,
            json!({"hosts": hosts, "wan": {"delay_ms": 5}}).to_string(),
        )
        .unwrap();
        let mut command = Command::new(FED_LAB);
        command.arg("serve").arg(spec);
        Self::start(command)
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.input.as_mut().unwrap(), "{request}").unwrap();
        self.read()
    }

    fn pid(&self, host: &str) -> String {
        self.hosts[host]["pid"].to_string()
    }

    fn exec(&self, host: &str, command: &[&str]) -> Command {
        let mut exec = Command::new(FED_LAB);
        exec.args(["exec", "--pid", &self.pid(host), "--"])
            .args(command);
        exec
    }
}

pub(crate) fn conversation() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::of_two_hosts(folder.path());
    assert_eq!(server.hosts["b"]["addr4"], "192.0.2.11");
    assert_eq!(output_of(server.exec("b", &["hostname"])), "b");
    assert_eq!(
        server.ask(&json!({"command": "reset"})),
        json!({"ok": null})
    );
    let counters = server.ask(&json!({"command": "counters"}));
    assert_eq!(
        counters["ok"]["links"].as_array().unwrap().len(),
        2,
        "{counters}"
    );
    for request in [
        json!({"command": "cut", "a": "a", "b": "b", "what": "udp", "one_way": true}),
        json!({"command": "cut", "a": "a", "b": "b", "what": "everything"}),
        json!({"command": "wan", "a": "a", "b": "b", "change": {"loss": 0.5}}),
        json!({"command": "snapshot", "folders": [{"host": "a", "path": "/data"}]}),
    ] {
        assert_eq!(server.ask(&request), json!({"ok": null}), "{request}");
    }
    assert_eq!(
        server.ask(&json!({"command": "leftovers"})),
        json!({"ok": []})
    );
    output_of(server.exec("a", &["touch", "/data/left"]));
    let left = server.ask(&json!({"command": "leftovers"}));
    assert_eq!(left, json!({"ok": ["file /data/left in a"]}));
    let (mut cat, _output) = start(server.exec("a", &["sh", "-c", "echo up; exec cat"]), "up");
    wait_until("the program is shown", || {
        let processes = server.ask(&json!({"command": "processes", "host": "a"}));
        processes["ok"][0]["cmdline"] == "cat"
    });
    drop(cat.stdin.take());
    assert!(cat.wait().unwrap().success());
    for request in [
        json!({"command": "processes", "host": "c"}),
        json!({"command": "nonsense"}),
        json!({"command": "wan", "a": "a", "b": "b", "change": {"loss": 5}}),
    ] {
        assert!(server.ask(&request)["error"].is_string(), "{request}");
    }
    server.input = None;
    assert_eq!(server.read(), json!({"ok": null}));
    assert!(server.child.wait().unwrap().success());
    assert!(!fs::exists(format!("/proc/{}", server.pid("a"))).unwrap());
}

/// Processes that live in one of these namespaces.
fn inhabitants(namespaces: &BTreeSet<String>) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| !own_namespaces(pid).is_disjoint(namespaces))
        .collect()
}

fn own_namespaces(pid: &str) -> BTreeSet<String> {
    let kinds = ["net", "mnt", "pid", "uts"];
    let links = kinds
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok());
    links
        .map(|link| link.to_str().unwrap().to_owned())
        .collect()
}

pub(crate) fn killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::of_two_hosts(folder.path());
    let ours = own_namespaces("self");
    let hosts = ["a", "b"].map(|host| own_namespaces(&server.pid(host)));
    let made: BTreeSet<_> = hosts.iter().flatten().cloned().collect();
    let made: BTreeSet<_> = made.difference(&ours).cloned().collect();
    assert_eq!(made.len(), 8, "{made:?}");
    let script = "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo up; exec sleep 1000";
    let (mut exec, _output) = start(server.exec("b", &["sh", "-c", script]), "up");
    wait_until("the daemon and the program run", || {
        inhabitants(&made).len() == 4
    });

    server.child.kill().unwrap();
    assert_eq!(server.child.wait().unwrap().signal(), Some(9));
    wait_until("the hosts are empty", || inhabitants(&made).is_empty());
    assert_eq!(
        exec.wait().unwrap().signal(),
        Some(9),
        "the minder ended as its program did"
    );
}

pub(crate) fn exec() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::of_two_hosts(folder.path());
    let code = |command: &[&str]| server.exec("a", command).status().unwrap().code();
    assert_eq!(code(&["sh", "-c", "exit 3"]), Some(3));
    assert_eq!(code(&["/no-such-program"]), Some(127));
    assert_eq!(code(&["/etc/hosts"]), Some(126));
    let mut nowhere = Command::new(FED_LAB);
    let nowhere = nowhere
        .args(["exec", "--pid", "4194304", "--", "true"])
        .status()
        .unwrap();
    assert_eq!(nowhere.code(), Some(125));

    let script = "trap 'echo got; exit 5' INT; echo up; while :; do sleep 0.1; done";
    // Tests that are started in the background inherit that it is ignored, which no shell undoes.
    let shell = ["env", "--default-signal=INT", "sh", "-c", script];
    let (mut child, mut output) = start(server.exec("a", &shell), "up");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(crate::wan::read_line(&mut output), "got");
    assert_eq!(child.wait().unwrap().code(), Some(5));

    let (mut child, mut output) = start(
        server.exec("a", &["sh", "-c", "echo up; exec sleep 1000"]),
        "up",
    );
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert_eq!(
        crate::wan::read_line(&mut output),
        "",
        "the program has gone too"
    );
}

/// An ordinary user's lab inside a host of root's, which has a device that this user may open.
pub(crate) fn ordinary_user() {
    if !is_machine_root() {
        // All tests of this program have run as an ordinary user.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    mknod(
        &path("tun"),
        SFlag::S_IFCHR,
        Mode::empty(),
        makedev(10, 200),
    )
    .unwrap();
    fs::set_permissions(path("tun"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(
        path("lab.json"),
        json!({"hosts": [{"name": "inner"}]}).to_string(),
    )
    .unwrap();
    let lab = Lab::builder()
        .host("outer")
        .bind("outer", path("tun"), "/dev/net/tun")
        .bind("outer", path("lab.json"), "/run/test/lab.json")
        .bind("outer", FED_LAB, "/run/test/fed-lab")
        .start()
        .unwrap();
    let user = HostUser {
        uid: 65_534,
        gid: 65_534,
    };
    let fed_lab = || {
        let mut command = lab.host("outer").command_as(user, "/run/test/fed-lab");
        command.current_dir("/");
        command
    };
    let mut serve = fed_lab();
    serve.args(["serve", "/run/test/lab.json"]);
    let mut server = Server::start(serve);
    let mut exec = fed_lab();
    exec.args([
        "exec",
        "--pid",
        &server.pid("inner"),
        "--",
        "sh",
        "-c",
        "hostname; id -u",
    ]);
    assert_eq!(output_of(exec), "inner\n0");
    server.input = None;
    assert_eq!(server.read(), json!({"ok": null}));
    assert!(server.child.wait().unwrap().success());

    fs::set_permissions(path("tun"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut check = fed_lab();
    let refused = check.arg("check").output().unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("chmod 0666 /dev/net/tun"), "{text}");
}
