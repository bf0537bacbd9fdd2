//! The Internet checksum (RFC 1071), over bytes that are summed eight at a time.

/// A sum of 16-bit words in the byte order of this machine, which commutes with the checksum
/// (RFC 1071, section 2, B).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

/// Words summed in one turn: as many as two or four vector registers hold.
const LANES: usize = 8;

impl Sum {
    /// The sum of the pseudo header of an IPv6 packet (RFC 8200, section 8.1). `addresses` are
    /// source and destination, 32 bytes; `length` is that of the upper layer.
    pub(crate) fn pseudo(addresses: &[u8], length: usize, next_header: u8) -> Self {
        let length = u32::try_from(length).expect("a packet is shorter than 4 GiB");
        Self::default()
            .with(addresses)
            .with(&length.to_be_bytes())
            .with(&[0, next_header])
    }

    /// Adds bytes, of which only the last ones added may be odd in number.
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        let mut low = [0u64; LANES];
        let mut high = [0u64; LANES];
        let blocks = bytes.chunks_exact(8 * LANES);
        let rest = blocks.remainder();
        for block in blocks {
            for ((low, high), word) in low.iter_mut().zip(&mut high).zip(block.chunks_exact(8)) {
                let word = u64::from_ne_bytes(word.try_into().expect("chunks of eight"));
                *low += word & 0xffff_ffff;
                *high += word >> 32;
            }
        }
        let mut sum: u64 = low.iter().chain(&high).sum();
        let pairs = rest.chunks_exact(2);
        if let [last] = pairs.remainder() {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        sum += pairs
            .map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])))
            .sum::<u64>();
        // A packet of 64 KiB adds less than 2^48, so that a few of them do not overflow.
        Self(self.0 + sum)
    }

    /// The sum in 16 bits, as it lies in memory.
    pub(crate) fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).expect("folded").to_ne_bytes()
    }

    /// The checksum, as it lies in memory.
    pub(crate) fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether the bytes, among them their own checksum, are sound.
    pub(crate) fn is_sound(self) -> bool {
        self.folded() == [0xff; 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1.
    fn plain(bytes: &[u8]) -> [u8; 2] {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap().to_be_bytes()
    }

    proptest! {
        #[test]
        fn sums_as_the_plain_way_does(even: Vec<u16>, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let even: Vec<u8> = even.into_iter().flat_map(u16::to_be_bytes).collect();
            let sum = Sum::default().with(&even).with(&bytes);
            prop_assert_eq!(sum.folded(), plain(&[even, bytes].concat()));
        }
    }

    #[test]
    fn the_example_of_the_standard() {
        let sum = Sum::default().with(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), [0xdd, 0xf2]);
        assert_eq!(sum.checksum(), [0x22, 0x0d]);
    }
}
