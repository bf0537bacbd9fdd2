//! Which processes run in the memory of their parent, as what vfork made does until it executes.
//!
//! The kernel compares the memory of two processes (kcmp) by the numbers that they have for the
//! caller, while a sandbox's `/proc` tells its own: so the processes below PID 1 are looked up in
//! the caller's `/proc` first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use nix::libc;

use crate::group::Sample;

/// `KCMP_VM` of linux/kcmp.h: whether two processes share an address space.
const SAME_MEMORY: libc::c_int = 1;

/// The processes, by the sandbox's numbers, whose memory is that of a parent among `members`. Where
/// the kernel does not tell, a process is none of them. `first` is the sandbox's PID 1 as the
/// caller sees it.
pub(crate) fn in_parents_memory(first: u32, members: &[Sample]) -> BTreeSet<i32> {
    let alive = || members.iter().filter(|member| !member.is_dead);
    let pids: BTreeSet<i32> = alive().map(|member| member.pid).collect();
    let mut pairs = alive()
        .filter(|member| pids.contains(&member.parent))
        .peekable();
    if pairs.peek().is_none() {
        return BTreeSet::new();
    }
    let numbers = numbers(first);
    let is_shared = |member: &&Sample| {
        let found = numbers.get(&member.pid).zip(numbers.get(&member.parent));
        found.is_some_and(|(child, parent)| share_memory(*child, *parent))
    };
    pairs.filter(is_shared).map(|member| member.pid).collect()
}

/// The sandbox's numbers of the processes below PID 1, with the caller's.
fn numbers(first: u32) -> BTreeMap<i32, i32> {
    let mut numbers = BTreeMap::new();
    let mut waiting = vec![first.cast_signed()];
    while let Some(pid) = waiting.pop() {
        let folder = format!("/proc/{pid}");
        if let Some(inside) = number_inside(Path::new(&folder)) {
            // A number that was used again meanwhile could make a circle.
            if numbers.insert(inside, pid).is_none() {
                waiting.extend(children(Path::new(&folder)));
            }
        }
    }
    numbers
}

/// The number of a process in the PID namespace below the caller's.
fn number_inside(folder: &Path) -> Option<i32> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().nth(1)?.parse().ok()
}

/// The children of all threads of a process.
fn children(folder: &Path) -> Vec<i32> {
    let threads = fs::read_dir(folder.join("task"));
    let threads = threads.into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let read = |list: String| -> Vec<i32> {
        let numbers = list.split_whitespace();
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    lists.flat_map(read).collect()
}

fn share_memory(one: i32, other: i32) -> bool {
    #[expect(unsafe_code, reason = "no wrapper exists for kcmp")]
    // SAFETY: all arguments are numbers.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, SAME_MEMORY, 0, 0) };
    order == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_process_own_and_not_anothers() {
        let own = std::process::id().cast_signed();
        assert!(share_memory(own, own));
        assert!(!share_memory(
            own,
            std::os::unix::process::parent_id().cast_signed()
        ));
    }
}
