//! The hosts outside that the processes of a sandbox may connect to: listeners inside, which stand
//! for them, and connections that this process makes outside on their behalf.
//!
//! Nothing that comes from inside chooses where a connection goes: each listener has one
//! destination, which the site's configuration names.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant};

use fed_core::Destination;
use fed_sandbox::Handle;
use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::failure::RunError;
use super::room::{self, Room};
use crate::quiet::Quiet;

/// First of the addresses inside that stand for hosts with a name. A resolver that is asked for
/// the families that a host has (`AI_ADDRCONFIG`) leaves out IPv4 in a sandbox, which has no more
/// of it than the loopback; some programs know nothing but IPv4.
const FIRST: (Ipv6Addr, Ipv4Addr) = (
    Ipv6Addr::new(0xfdfe, 0xd077, 0, 0, 0, 0, 0, 1),
    Ipv4Addr::new(127, 77, 0, 1),
);
/// How long a host outside may take to accept, its name's look-up included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes held per connection and direction: chunks of arrays pass here.
const BUFFER: usize = 64 * 1024;
/// After how long a listener that could not accept is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Where a destination is found inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Door {
    destination: Destination,
    inside: Vec<IpAddr>,
}

/// Gives every destination its place inside: the host's own address where the site names it by
/// one, else two of the sandbox's, for each name; and the same port.
pub(super) fn doors(destinations: &[Destination]) -> Vec<Door> {
    let mut names: Vec<&str> = Vec::new();
    destinations
        .iter()
        .map(|destination| {
            let host = destination.host();
            let inside = match destination.address() {
                Some(address) => vec![address],
                None => {
                    let known = names.iter().position(|name| *name == host);
                    let index = known.unwrap_or_else(|| {
                        names.push(host);
                        names.len() - 1
                    });
                    let index = u32::try_from(index).expect("a file names few hosts");
                    let (v6, v4) = FIRST;
                    vec![
                        Ipv6Addr::from_bits(v6.to_bits() + u128::from(index)).into(),
                        Ipv4Addr::from_bits(v4.to_bits() + index).into(),
                    ]
                }
            };
            Door {
                destination: destination.clone(),
                inside,
            }
        })
        .collect()
}

/// The addresses that the sandbox must have for these, besides its loopback's.
pub(super) fn own_addresses(doors: &[Door]) -> Vec<IpAddr> {
    let inside = doors.iter().flat_map(|door| &door.inside);
    let own: BTreeSet<IpAddr> = inside
        .filter(|address| !address.is_loopback())
        .copied()
        .collect();
    own.into_iter().collect()
}

/// The lines of the sandbox's hosts file that lead to these.
pub(super) fn hosts(doors: &[Door]) -> Vec<(IpAddr, String)> {
    let named = doors
        .iter()
        .filter(|door| door.destination.address().is_none());
    let lines = named.flat_map(|door| {
        let line = |address: &IpAddr| (*address, door.destination.host().to_owned());
        door.inside.iter().map(line)
    });
    let lines: BTreeSet<(IpAddr, String)> = lines.collect();
    lines.into_iter().collect()
}

/// The open doors of a sandbox. Dropping it closes them and ends all connections.
#[derive(Debug)]
pub(super) struct Reach {
    doors: JoinSet<()>,
}

impl Reach {
    /// Listens inside for every destination. This process may have so many files open.
    ///
    /// # Errors
    /// [`RunError::Reach`], with the destination.
    pub(super) async fn open(
        sandbox: &Handle,
        destinations: &[Destination],
        files: u64,
    ) -> Result<Self, RunError> {
        let mut open = JoinSet::new();
        let rooms = Room::divide(room::most(files), destinations.len());
        for (door, room) in doors(destinations).into_iter().zip(rooms) {
            let Door {
                destination,
                inside,
            } = door;
            for address in inside {
                let inside = SocketAddr::new(address, destination.port());
                let listening = sandbox.listen(inside).await;
                let listener = listening.map_err(|source| RunError::Reach {
                    destination: destination.clone(),
                    source,
                })?;
                info!(%destination, %inside, "processes inside may connect");
                open.spawn(serve(destination.clone(), listener, room.clone(), dial));
            }
        }
        Ok(Self { doors: open })
    }

    /// Closes the doors, and returns when no socket is left of them.
    pub(super) async fn close(&mut self) {
        self.doors.shutdown().await;
    }
}

/// Carries what arrives at one door, until it is dropped. What there is no room for waits.
async fn serve<Dialled>(
    destination: Destination,
    listener: TcpListener,
    room: Room,
    dial: impl Fn(Destination) -> Dialled,
) where
    Dialled: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let quiet = Quiet::default();
    // Whoever waits keeps its place whatever else happens.
    let mut waiting = pin!(Fuse::terminated());
    loop {
        tokio::select! {
            accepted = listener.accept(), if waiting.is_terminated() => match accepted {
                Ok((inside, _)) => {
                    let room = room.clone();
                    waiting.set(async move { (inside, room.enter().await) }.fuse());
                }
                Err(error) => {
                    complain(&quiet, &destination, &error);
                    tokio::time::sleep(RETRY).await;
                }
            },
            (inside, permit) = &mut waiting => {
                let dialled = dial(destination.clone());
                connections.spawn(async move {
                    let carried = carry(inside, dialled).await;
                    drop(permit);
                    carried
                });
            }
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    complain(&quiet, &destination, &error);
                }
            }
        }
    }
}

/// Connects to the destination, and copies both ways until both ends have said all.
///
/// # Errors
/// When the destination cannot be reached; whoever asked has then been told by a reset.
async fn carry(
    mut inside: TcpStream,
    dialled: impl Future<Output = io::Result<TcpStream>>,
) -> io::Result<()> {
    let mut outside = match dialled.await {
        Ok(outside) => outside,
        Err(error) => {
            // An orderly end would look like an empty answer.
            let _ = inside.set_zero_linger();
            return Err(error);
        }
    };
    // Requests are answered one by one: small ones must not wait for more.
    let _ = (inside.set_nodelay(true), outside.set_nodelay(true));
    let copied =
        tokio::io::copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER, BUFFER).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a connection to a host outside was cut off");
        let _ = (inside.set_zero_linger(), outside.set_zero_linger());
    }
    Ok(())
}

async fn dial(destination: Destination) -> io::Result<TcpStream> {
    let connecting = async {
        let addresses = lookup_host((destination.host(), destination.port())).await?;
        fed_rpc::connect(&addresses.collect::<Vec<_>>()).await
    };
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            let message = format!("no answer within {} s", PATIENCE.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        }
    }
}

fn complain(quiet: &Quiet, destination: &Destination, error: &io::Error) {
    if let Some(before) = quiet.note(Instant::now()) {
        warn!(
            %destination, %error, before,
            "cannot reach what `reach` in agent.toml names; workers' connections are reset"
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A host that sends back what it is sent, and a door to it with this room.
    async fn door(room: &Room, doors: &mut JoinSet<()>) -> SocketAddr {
        let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, door) = (outside.local_addr().unwrap(), inside.local_addr().unwrap());
        doors.spawn(async move {
            let mut echoes = JoinSet::new();
            loop {
                let (mut stream, _) = outside.accept().await.unwrap();
                echoes.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let destination = "store.site:443".parse().unwrap();
        let dial = move |_| TcpStream::connect(host);
        doors.spawn(serve(destination, inside, room.clone(), dial));
        door
    }

    async fn echoed(stream: &mut TcpStream) {
        let mut answer = [0];
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
    }

    #[tokio::test]
    async fn one_destination_does_not_take_the_room_of_another() {
        let mut doors = JoinSet::new();
        let rooms = Room::divide(4, 2);
        let (greedy, modest) = (
            door(&rooms[0], &mut doors).await,
            door(&rooms[1], &mut doors).await,
        );
        let mut taken = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(greedy).await.unwrap();
            echoed(&mut stream).await;
            taken.push(stream);
        }
        // There is no room for one more, but it may wait.
        let mut waiting = TcpStream::connect(greedy).await.unwrap();
        waiting.write_all(b"y").await.unwrap();
        let mut other = TcpStream::connect(modest).await.unwrap();
        echoed(&mut other).await;
        let nothing = waiting.try_read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        taken.pop();
        echoed(&mut waiting).await;
    }

    #[test]
    fn a_name_has_one_place_and_addresses_stay() {
        let texts = [
            "a.site:1",
            "10.0.0.1:2",
            "b.site:1",
            "a.site:3",
            "[fd00::5]:4",
        ];
        let destinations: Vec<Destination> =
            texts.iter().map(|text| text.parse().unwrap()).collect();
        let doors = doors(&destinations);
        let text = |addresses: &[IpAddr]| {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            texts.join(" ")
        };
        let inside: Vec<String> = doors.iter().map(|door| text(&door.inside)).collect();
        assert_eq!(
            inside,
            [
                "fdfe:d077::1 127.77.0.1",
                "10.0.0.1",
                "fdfe:d077::2 127.77.0.2",
                "fdfe:d077::1 127.77.0.1",
                "fd00::5"
            ]
        );
        let own = text(&own_addresses(&doors));
        assert_eq!(own, "10.0.0.1 fd00::5 fdfe:d077::1 fdfe:d077::2");
        let hosts: Vec<String> = hosts(&doors)
            .iter()
            .map(|(address, name)| format!("{address} {name}"))
            .collect();
        assert_eq!(
            hosts,
            [
                "127.77.0.1 a.site",
                "127.77.0.2 b.site",
                "fdfe:d077::1 a.site",
                "fdfe:d077::2 b.site"
            ]
        );
    }
}
