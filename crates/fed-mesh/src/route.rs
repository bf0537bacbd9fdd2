//! Which peer an inner address belongs to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;

use crate::Ipv6Prefix;
use crate::prefix::mask;

/// Longest-prefix lookup: one table of blocks for each prefix length in use, longest first. A
/// federation uses two or three lengths, so a lookup costs as many hash lookups.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_length: BTreeMap<Reverse<u8>, HashMap<u128, u32>>,
}

impl Routes {
    /// Gives `prefix` to the peer in `slot`.
    pub(crate) fn insert(&mut self, prefix: Ipv6Prefix, slot: u32) {
        self.by_length
            .entry(Reverse(prefix.len()))
            .or_default()
            .insert(prefix.addr().into(), slot);
    }

    /// The slot of the peer with the longest prefix around `addr`.
    pub(crate) fn lookup(&self, addr: Ipv6Addr) -> Option<u32> {
        let addr = u128::from(addr);
        self.by_length
            .iter()
            .find_map(|(Reverse(len), blocks)| blocks.get(&(addr & mask(*len))).copied())
    }
}
