//! Cases about processes: how they start, end, and what becomes of their children.

use fed_sandbox::{Event, ExitStatus, ProcessStep, RunError, SignalError};

use crate::world::World;

pub(crate) fn exits(world: &World) {
    world.live(async |live| {
        let id = live.start("code", &["sh", "-c", "exit 7"]).await;
        let name = "code".to_owned();
        let status = ExitStatus::Code(7);
        assert_eq!(
            live.events.recv().await,
            Some(Event::Exited { id, name, status })
        );
        for signal in [9, 15, nix::libc::SIGRTMIN() + 3] {
            let script = format!("import os; os.kill(os.getpid(), {signal})");
            let id = live.start("signal", &["python3", "-c", &script]).await;
            assert_eq!(live.end_of(id).await, ExitStatus::Signal(signal));
        }
        let id = live.start("sleeper", &["sleep", "1000"]).await;
        live.handle.signal(id, 15).await.unwrap();
        assert_eq!(live.end_of(id).await, ExitStatus::Signal(15));
        let error = live.handle.signal(id, 15).await.unwrap_err();
        assert!(matches!(error, SignalError::Ended { process } if process == id));
        let id = live.start("sleeper", &["sleep", "1000"]).await;
        let error = live.handle.signal(id, 1000).await.unwrap_err();
        assert!(matches!(error, SignalError::Refused { signal: 1000, .. }));
    });
}

pub(crate) fn starts_that_fail(world: &World) {
    world.live(async |live| {
        let good = live.process("good", &["true"]);
        let step = |error| match error {
            RunError::Step {
                step,
                subject,
                source,
                ..
            } => (step, subject.display().to_string(), source.raw_os_error()),
            other @ (RunError::Closed { .. } | RunError::Long { .. } | RunError::Text { .. }) => {
                panic!("{other}")
            }
        };
        let (enoent, einval) = (Some(nix::libc::ENOENT), Some(nix::libc::EINVAL));
        for (spec, wanted) in [
            (
                live.process("x", &["/no/such"]),
                (ProcessStep::Exec, "/no/such", enoent),
            ),
            (
                live.process("x", &["nosuch"]),
                (ProcessStep::Exec, "nosuch", enoent),
            ),
            (
                live.process("x", &["/usr"]),
                (ProcessStep::Exec, "/usr", Some(nix::libc::EACCES)),
            ),
            (live.process("x", &[]), (ProcessStep::Arguments, "", einval)),
            (
                live.process("x", &["true", "\0"]),
                (ProcessStep::Arguments, "true", einval),
            ),
            (
                fed_sandbox::ProcessSpec {
                    cwd: "/no".into(),
                    ..good.clone()
                },
                (ProcessStep::Folder, "/no", enoent),
            ),
            (
                fed_sandbox::ProcessSpec {
                    log: "/no/log".into(),
                    ..good.clone()
                },
                (ProcessStep::Log, "/no/log", enoent),
            ),
        ] {
            let found = step(live.handle.run(spec).await.unwrap_err());
            assert_eq!((found.0, found.1.as_str(), found.2), wanted);
        }
        let mut long = good.clone();
        long.env.insert("LONG".into(), "x".repeat(200_000));
        let error = live.handle.run(long).await.unwrap_err();
        assert!(
            matches!(
                error,
                RunError::Long {
                    bytes: 200_000..,
                    ..
                }
            ),
            "{error}"
        );
        // None of them left an event or upset PID 1.
        let id = live.handle.run(good).await.unwrap();
        let event = live.events.recv().await;
        assert!(matches!(event, Some(Event::Exited { id: ended, .. }) if ended == id));
    });
}

pub(crate) fn orphans(world: &World) {
    world.live(async |live| {
        let script = "import os, time\n\
                      read, write = os.pipe()\n\
                      if os.fork() == 0:\n\
                      \x20   if (orphan := os.fork()) == 0:\n\
                      \x20       os.setsid(); os.close(write); time.sleep(0.05); os._exit(0)\n\
                      \x20   os.write(write, str(orphan).encode()); os._exit(0)\n\
                      os.wait(); os.close(write)\n\
                      orphan = os.read(read, 100).decode()\n\
                      assert open(f'/proc/{orphan}/stat').read().split(')')[1].split()[1] == '1'\n\
                      while os.path.exists(f'/proc/{orphan}'): time.sleep(0.01)\n";
        live.python("orphans", script).await;
    });
}

pub(crate) fn groups(world: &World) {
    world.live(async |live| {
        let id = live.start("leader", &["sh", "-c", "sleep 1000 & echo $!; exit 3"]).await;
        assert_eq!(live.end_of(id).await, ExitStatus::Code(3));
        let child = live.first_line("leader").await;
        let until_gone = format!(
            "import os, time\nwhile os.path.exists('/proc/{child}'): time.sleep(0.01)\n"
        );
        live.python("until_gone", &until_gone).await;

        let both = "trap 'echo parent; wait; exit 0' TERM\n\
                    sh -c 'trap \"echo child; exit 0\" TERM; echo up; while :; do sleep 0.01; done' &\n\
                    while :; do sleep 0.01; done";
        let id = live.start("both", &["sh", "-c", both]).await;
        assert_eq!(live.first_line("both").await, "up");
        live.handle.signal(id, 15).await.unwrap();
        live.end_of(id).await;
        let output = live.output("both");
        assert!(output.contains("parent") && output.contains("child"), "{output}");
    });
}
