//! What one direction between two hosts refuses to carry.

/// Offset of the type in an Ethernet header.
const ETHER_TYPE: usize = 12;
/// Offset of the IP header in a frame.
const IP: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6_HEADER: usize = 40;
/// Next header of an IPv6 packet that has been split: the protocol stands in the fragment's header.
const IPV6_FRAGMENT: u8 = 44;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What one direction between two hosts refuses to carry: how a firewall or a broken line looks
/// from the hosts. What it stops vanishes without a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cut {
    /// The direction is whole.
    #[default]
    Nothing,
    /// TCP over IPv4 and IPv6.
    Tcp,
    /// UDP over IPv4 and IPv6.
    Udp,
    /// Every frame: IP of any kind, ARP and neighbour discovery too.
    Everything,
}

impl Cut {
    /// Whether an Ethernet frame is stopped. What is too short to tell is neither TCP nor UDP.
    pub(super) fn stops(self, frame: &[u8]) -> bool {
        match self {
            Self::Nothing => false,
            Self::Tcp => protocol(frame) == Some(TCP),
            Self::Udp => protocol(frame) == Some(UDP),
            Self::Everything => true,
        }
    }
}

/// The protocol inside IP. Extension headers other than a fragment's are not looked behind: no
/// host of a lab sends them before TCP or UDP.
fn protocol(frame: &[u8]) -> Option<u8> {
    let ether_type = frame.get(ETHER_TYPE..IP)?;
    if ether_type == IPV4 {
        frame.get(IP + 9).copied()
    } else if ether_type == IPV6 {
        match *frame.get(IP + 6)? {
            IPV6_FRAGMENT => frame.get(IP + IPV6_HEADER).copied(),
            next => Some(next),
        }
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: [u8; 2], at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 100];
        frame[ETHER_TYPE..IP].copy_from_slice(&ether_type);
        frame[IP + at..][..bytes.len()].copy_from_slice(bytes);
        frame
    }

    #[test]
    fn a_protocol_is_stopped_in_both_versions_of_ip_and_in_fragments() {
        let split = |protocol| {
            let mut split = frame(IPV6, 6, &[IPV6_FRAGMENT]);
            split[IP + IPV6_HEADER] = protocol;
            split
        };
        let makes: [&dyn Fn(u8) -> Vec<u8>; 3] = [
            &|protocol| frame(IPV4, 9, &[protocol]),
            &|protocol| frame(IPV6, 6, &[protocol]),
            &split,
        ];
        for (cut, stopped, passing) in [(Cut::Tcp, TCP, UDP), (Cut::Udp, UDP, TCP)] {
            for make in makes {
                assert!(cut.stops(&make(stopped)), "{cut:?}");
                assert!(!cut.stops(&make(passing)), "{cut:?}");
            }
        }
    }

    #[test]
    fn address_resolution_and_what_is_too_short_pass_unless_everything_is_cut() {
        let arp = frame([0x08, 0x06], 0, &[]);
        for frame in [&arp[..], &frame(IPV4, 9, &[UDP])[..IP + 9], &[]] {
            for cut in [Cut::Nothing, Cut::Tcp, Cut::Udp] {
                assert!(!cut.stops(frame), "{cut:?}");
            }
            assert!(Cut::Everything.stops(frame));
        }
    }
}
