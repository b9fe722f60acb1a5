//! A reader takes whatever bytes there are.

use std::time::Duration;

use masque_recording::{End, Input, MAGIC, ReadError, Reader, Record, Replay};
use masque_recording::{Output, Start};
use proptest::prelude::*;

fn framed(records: &[Vec<u8>]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    for record in records {
        file.extend_from_slice(&(record.len() as u32).to_le_bytes());
        file.extend_from_slice(record);
    }
    file
}

fn bytes_of(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.put(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..5, what in 0_u8..12) {
        for bytes in [bytes.clone(), [&[kind][..], &bytes].concat(), [&[kind, what][..], &bytes].concat()] {
            if let Ok(record) = Record::parse(&bytes) {
                // Numbers may have been written longer than need be: what is written again is what is read.
                let again = bytes_of(&record);
                let parsed = Record::parse(&again).expect("it was written by us");
                prop_assert_eq!(bytes_of(&parsed), again);
            }
        }
    }

    #[test]
    fn any_file_is_read_to_its_end_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), with_magic: bool) {
        let file = match with_magic {
            true => [MAGIC, &bytes].concat(),
            false => bytes,
        };
        if let Ok(mut replay) = Replay::new(&file[..]) {
            while let Ok(Some(_)) = replay.step() {}
        }
    }

    #[test]
    fn a_length_alone_makes_no_room(length in 1_u32..) {
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&length.to_le_bytes());
        file.push(0);
        prop_assert!(Reader::new(&file[..]).is_err());
    }

    #[test]
    fn an_input_is_read_as_it_was_written(nanos: u64, data in proptest::collection::vec(any::<u8>(), 0..300)) {
        let at = Duration::from_nanos(nanos);
        let input = Input::Tun {
            port: masque_core::endpoint::PortId(7),
            header: masque_core::wire::offload::VnetHdr { gso_size: 1200, ..Default::default() },
            data: &data,
        };
        let words = format!("{input:?}");
        let bytes = bytes_of(&Record::Input(at, input));
        match Record::parse(&bytes) {
            Ok(Record::Input(read_at, read)) => {
                prop_assert_eq!(read_at, at);
                prop_assert_eq!(format!("{read:?}"), words);
            }
            _ => prop_assert!(false, "not an input"),
        }
    }
}

#[test]
fn a_file_must_begin_with_how_the_endpoint_was_made() {
    let end = bytes_of(&Record::End(End::Over));
    assert!(matches!(
        Reader::new(&framed(&[end])[..]),
        Err(ReadError::Malformed { at, .. }) if at == MAGIC.len() as u64
    ));
    let output = bytes_of(&Record::Output(Output::Done));
    assert!(matches!(
        Reader::new(&framed(&[output])[..]),
        Err(ReadError::Malformed { .. })
    ));
    assert!(matches!(Reader::new(MAGIC), Err(ReadError::Empty)));
    let other = b"masque recording 2 - holds the secrets of its sessions: keep it private\n";
    assert!(matches!(Reader::new(&other[..]), Err(ReadError::Magic)));
}

/// Everything that a configuration, a target and commands can hold.
mod values {
    use std::net::{IpAddr, SocketAddr};
    use std::time::SystemTime;

    use masque_core::H3Code;
    use masque_core::endpoint::{
        Command, Config, CongestionControl, ConnId, Identity, Ipv6Minimum, Limits, PortConfig,
        PortId, SocketId, TransportProfile, TunnelHandle,
    };
    use masque_core::session::{AddressRequestPolicy, SessionConfig, TunnelId};
    use masque_core::wire::capsule::RouteAdvertisement;
    use masque_core::wire::prefix::{AddressRange, IpPrefix};
    use masque_core::wire::template::UriTemplate;
    use masque_recording::{Setup, Tls};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a constant")
    }

    #[test]
    fn every_command_is_read_as_it_was_written() {
        let tunnel = TunnelHandle {
            conn: ConnId(300),
            tunnel: TunnelId(2),
        };
        let prefixes = vec![
            IpPrefix::new(ip("10.0.0.0"), 8).expect("a constant"),
            IpPrefix::host(ip("fd00::1")),
        ];
        let range = AddressRange::new(ip("10.0.0.1"), ip("10.0.0.9"), 17).expect("a constant");
        let commands = [
            Command::AdvertiseRoutes {
                tunnel,
                routes: RouteAdvertisement::from_unordered(vec![range]),
            },
            Command::RequestAddresses {
                tunnel,
                prefixes: prefixes.clone(),
            },
            Command::AssignAddresses {
                tunnel,
                addresses: prefixes,
            },
            Command::Resolved {
                tunnel,
                addresses: vec![ip("192.0.2.1"), ip("fd00::1")],
            },
            Command::CloseTunnel { tunnel },
            Command::CloseConnection {
                conn: ConnId(u64::MAX),
                code: H3Code::NO_ERROR,
            },
            Command::Revoke {
                identity: Identity("spiffe://a/ü".to_owned()),
            },
            Command::Rebound {
                socket: SocketId(u32::MAX),
            },
            Command::HandOver {
                conn: ConnId(0),
                socket: SocketId(1),
                remote: Some(SocketAddr::from((ip("fe80::1"), 443))),
                lost: true,
            },
            Command::PortMtu {
                port: PortId(0),
                mtu: 1280,
            },
            Command::Shutdown {
                grace: Duration::new(2, 999_999_999),
            },
        ];
        for command in commands {
            let words = format!("{command:?}");
            let input = Input::Command(Box::new(command));
            let bytes = bytes_of(&Record::Input(Duration::ZERO, input));
            let Ok(Record::Input(_, Input::Command(read))) = Record::parse(&bytes) else {
                panic!("{words}");
            };
            assert_eq!(format!("{read:?}"), words);
        }
    }

    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        for (congestion, minimum, policy) in [
            (
                CongestionControl::Tunnel,
                Ipv6Minimum::Follow,
                AddressRequestPolicy::Never,
            ),
            (
                CongestionControl::Fixed(1_000_000),
                Ipv6Minimum::Require {
                    probes: 3,
                    interval: Duration::from_millis(200),
                },
                AddressRequestPolicy::AtOnce,
            ),
        ] {
            let config = Config {
                server: None,
                transport: TransportProfile {
                    congestion,
                    ipv6_minimum: minimum,
                    initial_window: Some(1 << 20),
                    ..TransportProfile::default()
                },
                limits: Limits::default(),
                session: SessionConfig {
                    templates: vec![
                        UriTemplate::parse("https://a.test:4433/{target}/{ipproto}/")
                            .expect("a constant"),
                    ],
                    extra_protocols: vec!["connect-ip-bis".to_owned()],
                    grease: Some(7),
                    address_request: policy,
                    ..SessionConfig::default()
                },
                ports: vec![PortConfig {
                    id: PortId(3),
                    tcp_offload: true,
                    udp_offload: false,
                    addresses: vec![ip("10.0.0.1")],
                    mtu: 1400,
                }],
                shard: None,
            };
            let start = Start {
                about: "a test".to_owned(),
                wall: SystemTime::UNIX_EPOCH - Duration::from_millis(1),
                seed: [9; 32],
                setup: Setup::of(&config),
                tls: Tls {
                    ciphers: vec![0x1301],
                    groups: vec![29],
                    schemes: vec![0x0403],
                    roots: vec![vec![1, 2], Vec::new()],
                    chain: Vec::new(),
                    algorithm: 3,
                },
            };
            let (wall, tls, words) = (start.wall, start.tls.clone(), format!("{:?}", start.setup));
            let bytes = bytes_of(&Record::Start(Box::new(start)));
            let Ok(Record::Start(read)) = Record::parse(&bytes) else {
                panic!("not a start");
            };
            assert_eq!((read.wall, &read.tls), (wall, &tls));
            assert_eq!(format!("{:?}", read.setup), words);
        }
    }
}
