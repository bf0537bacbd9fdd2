//! Cases about processes that want more than they may have.

use std::fs;

use fed_sandbox::{
    Allowance, Event, Excess, ExitStatus, ProcessId, Quotas, Resources, SandboxSpec,
};

use crate::world::{Live, World, quoted};

const MIB: u64 = 1 << 20;
const KILLED: ExitStatus = ExitStatus::Signal(9);

fn spec(world: &World) -> SandboxSpec {
    SandboxSpec {
        quotas: Some(Quotas {
            processes: 200,
            shared_memory_bytes: 8 * MIB,
            scratch_bytes: 32 * MIB,
        }),
        ..world.spec()
    }
}

impl Live {
    async fn limited(&self, name: &str, allowance: Allowance, script: &str) -> ProcessId {
        let mut process = self.process(name, &["python3", "-c", script]);
        process.allowance = Some(allowance);
        self.handle.run(process).await.unwrap()
    }

    /// A process that does no harm.
    async fn bystander(&self) -> ProcessId {
        let script = "import time; time.sleep(1000)";
        self.limited("bystander", allowance(128, 20), script).await
    }

    /// Waits until too much was used.
    async fn excess(&mut self) -> Excess {
        loop {
            match self.events.recv().await {
                Some(Event::Exceeded(excess)) => return excess,
                Some(Event::Exited { .. }) => {}
                Some(Event::Closed) | None => panic!("the sandbox ended"),
            }
        }
    }
}

fn allowance(mebibytes: u64, processes: u32) -> Allowance {
    Allowance {
        memory_bytes: mebibytes * MIB,
        processes,
    }
}

/// Who holds too much is killed with all its children, wherever they are, and nobody else. What
/// parents and children share counts once.
pub(crate) fn memory(world: &World) {
    world.live_with(&spec(world), async |live| {
        let bystander = live.bystander().await;
        let script = "import os, time\n\
                      shared = bytearray(os.urandom(1 << 20) * 60)\n\
                      read, write = os.pipe()\n\
                      for _ in range(4):\n\
                      \x20   if os.fork() == 0:\n\
                      \x20       os.setsid(); os.read(read, 1)\n\
                      \x20       own = bytearray(os.urandom(1 << 20) * 60); time.sleep(1000)\n\
                      # Long enough for several looks.\n\
                      time.sleep(1.5); print('still here', flush=True)\n\
                      os.write(write, b'1234'); time.sleep(1000)\n";
        let greedy = live.limited("greedy", allowance(160, 20), script).await;
        assert_eq!(live.end_of(greedy).await, KILLED);
        assert_eq!(live.output("greedy"), "still here\n");
        let [excess] = &live.excesses[..] else {
            panic!("{:?}", live.excesses);
        };
        assert_eq!(
            (excess.process, &excess.resource),
            (Some(greedy), &Resources::Memory)
        );
        assert!(
            excess.used > excess.limit && excess.limit == 160 * MIB,
            "{excess:?}"
        );
        alone(live).await;
        live.handle.signal(bystander, 15).await.unwrap();
        assert_eq!(live.end_of(bystander).await, ExitStatus::Signal(15));
    });
}

/// Waits until only PID 1, the bystander and the one that looks are there.
async fn alone(live: &mut Live) {
    let script = "import os, time\n\
                  while len([p for p in os.listdir('/proc') if p.isdigit()]) > 3: time.sleep(0.01)\n";
    live.python("alone", script).await;
}

/// A child between vfork and exec counts with its parent, in whose memory it runs, and what the
/// parent fills then is not overlooked.
pub(crate) fn vfork(world: &World) {
    world.live_with(&spec(world), async |live| {
        let script = "import ctypes, os, threading, time\n\
                      libc, size = ctypes.CDLL(None), 1 << 16\n\
                      own = b'x' * (100 << 20)\n\
                      def child(stack):\n\
                      \x20   top = ctypes.c_void_p((ctypes.addressof(stack) + size) & ~15)\n\
                      \x20   vm, vfork, sigchld = 0x100, 0x4000, 17\n\
                      \x20   libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), top,\n\
                      \x20              vm | vfork | sigchld, None)\n\
                      stacks = [ctypes.create_string_buffer(size) for _ in range(4)]\n\
                      for stack in stacks:\n\
                      \x20   threading.Thread(target=child, args=(stack,), daemon=True).start()\n\
                      while len(os.listdir('/proc/self/task')) < 5: time.sleep(0.01)\n\
                      # Long enough for several looks.\n\
                      time.sleep(1.5); print('still here', flush=True)\n\
                      more = b'x' * (100 << 20); time.sleep(1000)\n";
        let greedy = live.limited("greedy", allowance(160, 20), script).await;
        assert_eq!(live.end_of(greedy).await, KILLED);
        assert_eq!(live.output("greedy"), "still here\n");
        let [excess] = &live.excesses[..] else {
            panic!("{:?}", live.excesses);
        };
        let once = 160 * MIB..400 * MIB;
        assert!(once.contains(&excess.used), "{excess:?}");
    });
}

/// A process whose first thread has ended is as large as its others make it, and is killed as any.
pub(crate) fn headless(world: &World) {
    world.live_with(&spec(world), async |live| {
        let script = "import ctypes, os, threading, time\n\
                      def fill():\n\
                      \x20   own = bytearray(os.urandom(1 << 20) * 200); time.sleep(1000)\n\
                      threading.Thread(target=fill, daemon=True).start()\n\
                      exit_of_a_thread = {'x86_64': 60, 'aarch64': 93}[os.uname().machine]\n\
                      ctypes.CDLL(None).syscall(exit_of_a_thread, 0)\n";
        let headless = live.limited("headless", allowance(160, 20), script).await;
        assert_eq!(live.end_of(headless).await, KILLED);
        let [excess] = &live.excesses[..] else {
            panic!("{:?}", live.excesses);
        };
        assert_eq!(
            (excess.process, &excess.resource),
            (Some(headless), &Resources::Memory)
        );
    });
}

/// The kernel makes no more processes than there may be, here and not on the host; `/dev/shm` and
/// files have a size.
pub(crate) fn numbers(world: &World) {
    let of_host = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    world.live_with(&spec(world), async |live| {
        let script = "import errno, os, signal\n\
                      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n\
                      made = []\n\
                      try:\n\
                      \x20   while len(made) < 1000:\n\
                      \x20       child = os.fork()\n\
                      \x20       if child == 0: signal.pause()\n\
                      \x20       made.append(child)\n\
                      except OSError as error: print(errno.errorcode[error.errno])\n\
                      for child in made: os.kill(child, 9); os.waitpid(child, 0)\n\
                      # Numbers below 300 are given once.\n\
                      print(150 < len(made) < 500)\n\
                      def fill(path):\n\
                      \x20   try:\n\
                      \x20       with open(path, 'wb') as file:\n\
                      \x20           while True: file.write(bytes(1 << 20))\n\
                      \x20   except OSError as error: print(errno.errorcode[error.errno])\n\
                      \x20   print(os.stat(path).st_size >> 20); os.unlink(path)\n\
                      fill('/dev/shm/fill')\n\
                      fill('/tmp/fill')\n";
        let output = live.python("numbers", script).await;
        assert_eq!(output, "EAGAIN\nTrue\nENOSPC\n8\nEFBIG\n32\n");
    });
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/pid_max").unwrap(),
        of_host
    );
}

/// Too many processes end, with those that left their parents, and what a process leaves behind in
/// sessions of its own ends after it.
pub(crate) fn families(world: &World) {
    world.live_with(&spec(world), async |live| {
        let bystander = live.bystander().await;
        let script = "import os, signal\n\
                      for _ in range(60):\n\
                      \x20   if os.fork() == 0: os.setsid(); signal.pause()\n\
                      signal.pause()\n";
        let many = live.limited("many", allowance(4000, 40), script).await;
        assert_eq!(live.end_of(many).await, KILLED);
        let [excess] = &live.excesses[..] else {
            panic!("{:?}", live.excesses);
        };
        assert_eq!(
            (excess.process, &excess.resource),
            (Some(many), &Resources::Processes)
        );
        assert_eq!(excess.limit, 40);
        alone(live).await;
        let script = "import os, time\n\
                      if os.fork() == 0: os.setsid(); time.sleep(1000)\n\
                      # Long enough to be seen together.\n\
                      time.sleep(0.5)\n";
        let parent = live.limited("parent", allowance(128, 20), script).await;
        assert_eq!(live.end_of(parent).await, ExitStatus::Code(0));
        alone(live).await;
        live.handle.signal(bystander, 15).await.unwrap();
        live.end_of(bystander).await;
    });
}

/// Processes that multiply without an end, each in a session of its own and away from its parent.
pub(crate) fn multiplication(world: &World) {
    world.live_with(&spec(world), async |live| {
        let script = "import os\n\
                      while True:\n\
                      \x20   try:\n\
                      \x20       if os.fork() == 0: os.setsid()\n\
                      \x20   except OSError: pass\n";
        let bomb = live.limited("bomb", allowance(4000, 50), script).await;
        assert_eq!(live.end_of(bomb).await, KILLED);
        assert!(matches!(live.excesses[0].resource, Resources::Processes));
        let script = "import os, time\n\
                      while len([p for p in os.listdir('/proc') if p.isdigit()]) > 2: time.sleep(0.01)\n\
                      if os.fork() == 0: os._exit(0)\n\
                      print(os.wait()[1])\n";
        // The dead keep their numbers until they are reaped.
        let probe = live.process("probe", &["true"]);
        while live.handle.run(probe.clone()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(live.python("after", script).await, "0\n");
    });
}

/// What fills the scratch folder is found, with and without a name, and where it is hidden.
pub(crate) fn scratch(world: &World) {
    let folder = quoted(&world.scratch());
    let ways = [
        (
            "tmp/b/fill",
            "os.mkdir('/tmp/b'); fill('/tmp/b/fill', 20); fill('/tmp/other', 16)",
        ),
        (
            "one without a name",
            "for _ in range(2):\n    open_files.append(fill('/tmp/x', 20)); os.unlink('/tmp/x')",
        ),
        (
            "closed/deep/fill",
            "os.makedirs('closed/deep'); fill('closed/deep/fill', 20); fill('/tmp/other', 16)\n\
             os.chmod('closed/deep', 0); os.chmod('closed', 0)",
        ),
    ];
    for (largest, way) in ways {
        world.live_with(&spec(world), async |live| {
            let script = format!(
                "import os, time\n\
                 os.chdir({folder})\n\
                 open_files = []\n\
                 def fill(path, mebibytes):\n\
                 \x20   file = open(path, 'wb'); file.write(bytes(mebibytes << 20)); file.flush()\n\
                 \x20   return file\n\
                 {way}\ntime.sleep(1000)\n"
            );
            let process = live.start("fill", &["python3", "-c", &script]).await;
            let excess = live.excess().await;
            let Resources::Scratch { largest: found } = &excess.resource else {
                panic!("{excess:?}");
            };
            assert!(found.contains(largest), "{excess:?}");
            assert_eq!((excess.process, excess.limit), (None, 32 * MIB));
            assert!((32 * MIB..45 * MIB).contains(&excess.used), "{excess:?}");
            live.handle.kill_all().await.unwrap();
            assert_eq!(live.end_of(process).await, KILLED);
        });
        clear(&world.scratch());
    }
}

fn clear(folder: &std::path::Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            clear(&path);
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The kernel takes all in here first, and nobody in here can change that.
pub(crate) fn out_of_memory(world: &World) {
    let of_host = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    world.live_with(&spec(world), async |live| {
        let script = "import errno\n\
                      print(open('/proc/self/oom_score_adj').read().strip())\n\
                      try: open('/proc/self/oom_score_adj', 'w')\n\
                      except OSError as error: print(errno.errorcode[error.errno])\n";
        assert_eq!(live.python("out-of-memory", script).await, "1000\nEROFS\n");
    });
    assert_eq!(
        fs::read_to_string("/proc/self/oom_score_adj").unwrap(),
        of_host
    );
}
