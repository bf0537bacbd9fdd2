//! What is done with messages of the other end of a control connection, for the fuzz targets in
//! `fuzz/`.

use fed_rpc::possession::{self, ChannelBinding, Purpose};
use fed_rpc::v1;
use prost::Message;

use crate::convert;
use crate::node::Request;

/// A message of the control plane: one byte that says which, and its protobuf.
///
/// # Panics
/// What was understood does not read as it was written.
pub fn control_messages(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 8 {
        0 => each(bytes, |message: v1::PrepareRequest| {
            // What is refused is answered, and what is not is used.
            let _ = convert::parse::<fed_core::FederationId>("federation", &message.federation);
            let _ = convert::parse::<fed_core::FederationName>("name", &message.name);
            let _ = convert::member_id("site_number", message.site_number);
            let _ = convert::members(message.members);
        }),
        1 => each(bytes, |message: v1::ConnectRequest| {
            if let Ok(peers) = convert::peers(message.peers) {
                let again = convert::peers(convert::peers_to_wire(peers.clone()));
                assert_eq!(again.ok(), Some(peers));
            }
        }),
        2 => each(bytes, |message: v1::DescribeReply| {
            if let Ok(description) = convert::description(message) {
                let wire = convert::description_to_wire(description.clone());
                assert_eq!(convert::description(wire).ok(), Some(description));
            }
        }),
        3 => each(bytes, |message: v1::ProbeReply| {
            let mesh = convert::mesh(message);
            assert_eq!(convert::mesh(convert::mesh_to_wire(mesh.clone())), mesh);
        }),
        4 => each(bytes, |message: v1::StartRequest| {
            for pool in message.pools {
                let _ = convert::parse::<fed_core::PoolName>("pool", &pool.pool);
            }
        }),
        5 => each(bytes, |message: v1::EnrolRequest| {
            let certificate = message.operator_certificate.into();
            let purpose = Purpose::Enrol(&message.operator_name);
            let connection = ChannelBinding::from_bytes([0; 32]);
            let proved = possession::check(&certificate, purpose, &connection, &message.proof);
            assert!(proved.is_err(), "a signature was forged");
        }),
        6 => each(bytes, |_: v1::Event| {}),
        _ => each(bytes, |_: v1::LogLine| {}),
    }
}

/// Calls `use_it` with a message that decodes.
fn each<M: Message + Default>(bytes: &[u8], use_it: impl FnOnce(M)) {
    if let Ok(message) = M::decode(bytes) {
        use_it(message);
    }
}

/// A line on the control socket of a node.
///
/// # Panics
/// One that was understood does not read as it was written.
pub fn node_requests(input: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let text = serde_json::to_string(&request).expect("a request can be written");
        let again: Request = serde_json::from_str(&text).expect("and read");
        let again = serde_json::to_string(&again).expect("a request can be written");
        assert_eq!(again, text);
    }
}
