//! Cases about what crosses between the sandbox's network and the outer half.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use fed_sandbox::ExitStatus;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{ADDRESS, ELSEWHERE, OUTSIDE, World};

pub(crate) fn sockets(world: &World) {
    world.live(async |live| {
        let server = "import socket\n\
                      with socket.create_server(('::1', 0), family=socket.AF_INET6) as server:\n\
                      \x20   print(server.getsockname()[1], flush=True)\n\
                      \x20   peer, _ = server.accept()\n\
                      \x20   peer.sendall(peer.recv(100).upper())\n";
        let id = live.start("server", &["python3", "-c", server]).await;
        let port: u16 = live.first_line("server").await.parse().unwrap();
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        let mut stream = live.handle.connect(address).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert_eq!(reply, "HELLO");
        live.end_of(id).await;

        // Low ports too, and on both families.
        for address in [
            SocketAddr::from((ADDRESS, 443)),
            "127.0.0.2:443".parse().unwrap(),
            // Addresses that are those of hosts outside.
            "10.11.12.13:443".parse().unwrap(),
            SocketAddr::from((OUTSIDE, 443)),
        ] {
            let listener = live.handle.listen(address).await.unwrap();
            let script = format!(
                "import socket\n\
                 with socket.create_connection(('{}', 443)) as outer: outer.sendall(b'hello')\n",
                address.ip()
            );
            let id = live.start("client", &["python3", "-c", &script]).await;
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut said = String::new();
            peer.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "hello");
            live.end_of(id).await;
        }
        let nobody = live
            .handle
            .connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
            .await;
        assert_eq!(
            nobody.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
    });
}

/// What stands before each packet of a device with `IFF_VNET_HDR`, in bytes.
const NOTE: usize = 10;

pub(crate) fn packets(world: &World) {
    world.live(async |live| {
        let script = format!(
            "import socket\n\
             with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:\n\
             \x20   udp.bind(('{ADDRESS}', 4000))\n\
             \x20   udp.sendto(b'there and back', ('{ELSEWHERE}', 5000))\n\
             \x20   print(udp.recvfrom(100)[0].decode())\n"
        );
        let id = live.start("datagram", &["python3", "-c", &script]).await;
        let mut tun = std::fs::File::from(live.tun.try_clone().unwrap());
        let mut read = vec![0; 2000];
        let length = loop {
            let mut watched = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut watched, PollTimeout::from(30_000_u16)), Ok(1));
            let length = tun.read(&mut read).unwrap();
            // Others are the kernel's multicast reports. 17 is UDP.
            if read[NOTE + 6] == 17 {
                break length;
            }
        };
        // Nothing is left to a device that has not offered it.
        assert_eq!(read[..NOTE], [0; NOTE]);
        let packet = &mut read[NOTE..length];
        assert_eq!(packet[8..24], ADDRESS.octets());
        assert_eq!(packet[24..40], ELSEWHERE.octets());
        assert_eq!(&packet[48..], b"there and back");
        // The checksum is a sum, so it holds with the ends swapped.
        packet[8..40].rotate_left(16);
        packet[40..44].rotate_left(2);
        tun.write_all(&read[..length]).unwrap();
        assert_eq!(live.end_of(id).await, ExitStatus::Code(0));
        assert_eq!(live.output("datagram"), "there and back\n");
    });
}
