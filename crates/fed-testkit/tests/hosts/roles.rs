//! What this test program does inside hosts.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

pub(crate) const PORT: u16 = 5000;

pub(crate) fn play(role: &[String]) {
    let role: Vec<_> = role.iter().map(String::as_str).collect();
    match role[..] {
        ["receive"] => receive(),
        ["send", host, bytes] => send(host, bytes.parse().expect("a number")),
        ["connect", host, patience_ms] => connect(host, patience_ms.parse().expect("a number")),
        ["unshare"] => {
            unshare(CloneFlags::CLONE_NEWNET).expect("the host may make namespaces");
            hold();
        }
        ["tap", name] => {
            let tap = tap(name);
            hold();
            drop(tap);
        }
        _ => panic!("no role {role:?}"),
    }
}

/// Accepts one connection and tells how many bytes it brought.
fn receive() {
    let listener = TcpListener::bind(("::", PORT)).expect("the port is free");
    say("listening");
    let (mut stream, _) = listener.accept().expect("a connection");
    let copied = std::io::copy(&mut stream, &mut std::io::sink()).expect("no error on the way");
    say(&copied.to_string());
}

fn send(host: &str, bytes: usize) {
    let mut stream = TcpStream::connect((host, PORT)).expect("a listener");
    stream
        .write_all(&vec![7; bytes])
        .expect("no error on the way");
}

/// Tells how long connecting took in microseconds, or `no`.
fn connect(host: &str, patience_ms: u64) {
    let mut addresses = (host, PORT).to_socket_addrs().expect("a known name");
    let address = addresses.next().expect("an address");
    let start = Instant::now();
    match TcpStream::connect_timeout(&address, Duration::from_millis(patience_ms)) {
        Ok(_) => say(&start.elapsed().as_micros().to_string()),
        Err(_) => say("no"),
    }
}

fn tap(name: &str) -> std::fs::File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("tun");
    // SAFETY: the structure holds integers only; zero is a value of each.
    #[expect(unsafe_code, reason = "an ioctl's structure")]
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (nix::libc::IFF_TAP | nix::libc::IFF_NO_PI) as i16;
    // SAFETY: the descriptor is open, and the request lives until the call returns.
    #[expect(unsafe_code, reason = "an ioctl")]
    let result =
        unsafe { nix::libc::ioctl(file.as_raw_fd(), nix::libc::TUNSETIFF, &raw const request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file
}

/// Says so, and goes on until standard input ends.
fn hold() {
    say("holding");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("a standard input");
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("the test reads our output");
}
