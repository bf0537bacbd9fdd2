//! System calls that a test has the kernel refuse.

use std::io;
use std::mem::offset_of;

use nix::libc;
use nix::sys::prctl;

/// Has the kernel refuse every `writev` of more than `most` slices with EINVAL, before any device
/// sees it, to this thread and those that it starts, for good.
///
/// # Errors
/// The kernel takes no such filter.
pub fn refuse_long_writev(most: u32) -> io::Result<()> {
    // The lower half of the third argument, which is an int.
    let lower = if cfg!(target_endian = "big") { 4 } else { 0 };
    let slices = offset_of!(libc::seccomp_data, args) + 2 * size_of::<u64>() + lower;
    let writev = u32::try_from(libc::SYS_writev).map_err(io::Error::other)?;
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EINVAL.cast_unsigned();
    // This architecture's calls alone: the process makes no others.
    let mut filter = [
        load(offset_of!(libc::seccomp_data, nr))?,
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, writev, 0, 3)?,
        load(slices)?,
        instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, most, 0, 1)?,
        instruction(libc::BPF_RET | libc::BPF_K, refusal, 0, 0)?,
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0)?,
    ];
    let program = libc::sock_fprog {
        len: libc::c_ushort::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    // Or only root may set a filter.
    prctl::set_no_new_privs()?;
    #[expect(unsafe_code, reason = "seccomp has no wrapper in nix")]
    // SAFETY: the program and its instructions live until the call returns, and are only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Loads a word of what is known of the call.
fn load(offset: usize) -> io::Result<libc::sock_filter> {
    let offset = u32::try_from(offset).map_err(io::Error::other)?;
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> io::Result<libc::sock_filter> {
    let code = u16::try_from(code).map_err(io::Error::other)?;
    Ok(libc::sock_filter { code, jt, jf, k })
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read as _, Write as _};

    use super::*;

    #[test]
    fn long_writes_of_the_thread_are_refused_and_others_pass() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let slices = [b"a", b"b", b"c"].map(|bytes| IoSlice::new(bytes));
        std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                refuse_long_writev(2).unwrap();
                let refused = (&writer).write_vectored(&slices).unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
                assert_eq!((&writer).write_vectored(&slices[..2]).unwrap(), 2);
            });
            filtered.join().unwrap();
        });
        assert_eq!(writer.write_vectored(&slices).unwrap(), 3);
        drop(writer);
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "ababc");
    }
}
