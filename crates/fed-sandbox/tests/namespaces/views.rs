//! Cases about what processes inside see, and may do.

use std::os::unix::fs::MetadataExt;

use nix::unistd::{Gid, Uid};

use crate::world::{ADDRESS, ELSEWHERE, TUN, World, quoted};

/// The device with its address and route, usable at once; no other, and no other address.
pub(crate) fn network(world: &World) {
    world.live(async |live| {
        let output = live
            .python(
                "network",
                "print(open('/proc/net/if_inet6').read())\n\
                 print(open('/proc/net/ipv6_route').read())\n\
                 import fcntl, socket, struct\n\
                 print(sorted(name for _, name in socket.if_nameindex()))\n\
                 request = struct.pack('16sI12x', b'fedtest0', 0)\n\
                 with socket.socket() as any:\n\
                 \x20   reply = fcntl.ioctl(any, 0x8921, request)\n\
                 print('mtu', struct.unpack('16sI12x', reply)[1])\n\
                 print(socket.gethostname())\n\
                 print(socket.getaddrinfo(socket.gethostname(), 1)[0][4][0])\n\
                 print(socket.getaddrinfo('elsewhere', 1)[0][4][0])\n\
                 print(repr(open('/etc/resolv.conf').read()))\n\
                 with socket.create_server(('::1', 0), family=socket.AF_INET6) as server:\n\
                 \x20   socket.create_connection(server.getsockname()[:2]).close()\n",
            )
            .await;
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let of_device: Vec<Vec<String>> = output
            .lines()
            .map(words)
            .filter(|line| line.last().is_some_and(|n| n == TUN))
            .collect();
        let hex = |address: std::net::Ipv6Addr| format!("{:032x}", u128::from(address));
        // Prefix 0x30, scope global, flags permanent and without duplicate address detection.
        let addresses: Vec<_> = of_device.iter().filter(|line| line.len() == 6).collect();
        assert_eq!(addresses.len(), 1, "{output}");
        assert_eq!(addresses[0][0], hex(ADDRESS));
        assert_eq!(addresses[0][2..5], ["30", "00", "82"]);
        let prefix = ["fd123456789a00000000000000000000", "30"];
        assert!(of_device.iter().any(|line| line[..2] == prefix), "{output}");
        assert!(!output.contains("fe80000000000000"), "{output}");
        for line in [
            format!("['{TUN}', 'lo']"),
            "mtu 1380".into(),
            "inside".into(),
        ] {
            assert!(
                output.lines().any(|found| found == line),
                "{line} in {output}"
            );
        }
        assert!(
            output.ends_with(&format!("inside\n{ADDRESS}\n{ELSEWHERE}\n''\n")),
            "{output}"
        );
    });
}

/// No power, no inheritance, its own session.
pub(crate) fn powers(world: &World) {
    world.live(async |live| {
        let status = live.python("status", "print(open('/proc/self/status').read())").await;
        let none = "0000000000000000";
        for (field, wanted) in [
            ("CapInh", none),
            ("CapPrm", none),
            ("CapEff", none),
            ("CapBnd", none),
            ("CapAmb", none),
            ("NoNewPrivs", "1"),
            ("SigBlk", none),
        ] {
            let line = format!("{field}:\t{wanted}");
            assert!(status.lines().any(|found| found == line), "{line} in {status}");
        }
        let (uid, gid) = (Uid::effective(), Gid::effective());
        let output = live
            .python(
                "powers",
                "import ctypes, os, resource, signal\n\
                 print(os.getuid(), os.getgid())\n\
                 print(os.getsid(0) == os.getpgid(0) == os.getpid())\n\
                 print(resource.getrlimit(resource.RLIMIT_CORE))\n\
                 print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n\
                 # Three, and the one that lists.\n\
                 print(len(os.listdir('/proc/self/fd')))\n\
                 print(sorted(os.environ))\n\
                 print([p for p in os.listdir('/proc') if p.isdigit()] == ['1', str(os.getpid())])\n\
                 print(open('/proc/1/comm').read().strip())\n\
                 libc = ctypes.CDLL(None, use_errno=True)\n\
                 for flags in [0x10000000, 0x20000, 0x40000000]:\n\
                 \x20   print(libc.unshare(flags))\n\
                 print(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))\n\
                 for path in ['/proc/1/environ', '/proc/1/mem', '/proc/1/root/etc']:\n\
                 \x20   try: os.open(path, os.O_RDONLY); print('open', path)\n\
                 \x20   except PermissionError: print('refused')\n",
            )
            .await;
        let wanted = format!(
            "{uid} {gid}\nTrue\n(0, 0)\nTrue\n4\n['PATH', 'TMPDIR']\nTrue\nfed-init\n\
             -1\n-1\n-1\n-1\nrefused\nrefused\nrefused\n"
        );
        // Python adds LC_CTYPE of its own accord in the C locale.
        assert_eq!(output.replace("'LC_CTYPE', ", ""), wanted);
    });
}

/// What is shown can be read and not written, with all below it; what is not shown is not there.
pub(crate) fn files(world: &World) {
    let folder = quoted(&world.folder);
    let nested = if world.caller == crate::caller::Caller::User {
        ""
    } else {
        "nested"
    };
    let script = format!(
        "import errno, os, tempfile\n\
         folder, nested = {folder}, '{nested}'\n\
         def write(path):\n\
         \x20   try: open(path, 'w').close(); return 'written'\n\
         \x20   except OSError as error: return errno.errorcode[error.errno]\n\
         def look(path): return sorted(os.listdir(path))\n\
         print(look(folder), os.readlink(folder + '/link'), look(folder + '/secret'))\n\
         print(open(folder + '/link/file').read(), open(folder + '/secret/shown').read())\n\
         print(write(folder + '/data/file'), write(folder + '/data/new'))\n\
         print(write(folder + '/secret/shown'), write(folder + '/new'), write('/new'))\n\
         print(write('/usr/new'), write('/etc/hosts'), write('/proc/sys/kernel/hostname'))\n\
         print(nested and open(folder + '/data/nested/file').read(),\n\
         \x20     nested and write(folder + '/data/nested/new'))\n\
         print(write(folder + '/scratch/new'), write('/tmp/new'), write('/dev/shm/new'))\n\
         print(write('/dev/null'), write('/dev/full'), os.listdir('/dev/fd')[:3])\n\
         print(tempfile.gettempdir() == folder + '/scratch')\n\
         print(os.path.exists('/root'), os.path.exists('/home'), os.path.exists('/sys'))\n"
    );
    world.live(async |live| {
        let output = live.python("files", &script).await;
        let (nested, refused) = if nested.is_empty() {
            ("", "")
        } else {
            (nested, "EROFS")
        };
        let wanted = format!(
            "['data', 'link', 'scratch', 'secret'] data ['shown']\n\
             data/file secret/shown\n\
             EROFS EROFS\n\
             EROFS EROFS EROFS\n\
             EROFS EROFS EROFS\n\
             {nested} {refused}\n\
             written written written\n\
             written written ['0', '1', '2']\n\
             True\n\
             False False False\n"
        );
        assert_eq!(output, wanted);
    });
    let written = std::fs::metadata(world.scratch().join("new")).unwrap();
    assert_eq!(written.uid(), Uid::effective().as_raw());
    assert!(world.scratch().join("tmp/new").exists());
    assert!(!world.data().join("new").exists());
}

/// Without the host's `/etc`, the sandbox has what look-ups of names need.
pub(crate) fn own_etc(world: &World) {
    let mut spec = world.spec();
    spec.read_only
        .retain(|path| path != std::path::Path::new("/etc"));
    let (_tun, inner) = fed_sandbox::spawn(&spec).unwrap().into_parts();
    crate::world::runtime().block_on(async {
        let (handle, mut events) = inner.start().unwrap();
        let log = world.scratch().join("etc.log");
        let script = "import os, pwd, socket\n\
                      print(sorted(os.listdir('/etc')))\n\
                      print(pwd.getpwuid(os.getuid()).pw_dir)\n\
                      print(socket.getaddrinfo('elsewhere', 1)[0][4][0])\n";
        let process = fed_sandbox::ProcessSpec {
            name: "etc".into(),
            argv: vec!["python3".into(), "-c".into(), script.into()],
            env: std::collections::BTreeMap::new(),
            cwd: world.scratch(),
            log: log.clone(),
            allowance: None,
        };
        handle.run(process).await.unwrap();
        events.recv().await.unwrap();
        let wanted = format!(
            "['group', 'hosts', 'nsswitch.conf', 'passwd', 'resolv.conf']\n{}\n{ELSEWHERE}\n",
            world.scratch().display()
        );
        assert_eq!(std::fs::read_to_string(log).unwrap(), wanted);
        handle.close().await;
    });
}
