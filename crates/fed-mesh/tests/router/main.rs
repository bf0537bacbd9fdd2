//! The router through its public face: routing against a naive model, and WireGuard itself between
//! routers in memory.

mod crowd;
mod families;
mod hostile;
mod narrow;
#[path = "../sim/node.rs"]
mod node;
mod noise;
#[path = "../sim/packet.rs"]
mod packet;
mod pair;
mod path;
mod relay;
mod routing;
mod stock;
