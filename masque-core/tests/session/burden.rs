//! What a peer sends in vain is counted, for a time.

use core::time::Duration;

use bytes::Bytes;
use masque_core::error::H3Code;
use masque_core::session::{QuicInput, QuicOutput, Session, SessionConfig, Timer, TimerOp};
use masque_core::wire::stream::{Direction, Role, StreamId};

use crate::pump::server_config;

const PERIOD: Duration = Duration::from_secs(7);

struct Flooded {
    session: Session,
}

impl Flooded {
    fn new(role: Role) -> Self {
        let config = SessionConfig {
            max_burden: 100,
            burden_period: PERIOD,
            ..server_config()
        };
        let mut session = Session::new(role, config);
        session.handle_quic(QuicInput::Connected {
            peer_max_datagram_frame_size: Some(65535),
        });
        let mut flooded = Self { session };
        flooded.control(role, &[0x00, 0x04, 0x04, 0x08, 0x01, 0x33, 0x01]);
        while flooded.session.poll_timer().is_some() {}
        flooded
    }

    fn control(&mut self, role: Role, data: &[u8]) {
        let stream = StreamId::nth(role.peer(), Direction::Unidirectional, 0);
        let data = Bytes::copy_from_slice(data);
        let fin = false;
        self.session
            .handle_quic(QuicInput::Data { stream, data, fin });
    }

    /// Frames of a type nobody knows.
    fn unknown(&mut self, role: Role, count: usize) {
        self.control(role, &[0x21, 0x00].repeat(count));
    }

    fn timer(&mut self) -> Option<TimerOp> {
        self.session.poll_timer()
    }

    fn closed(&mut self) -> Option<H3Code> {
        let mut code = None;
        while let Some(output) = self.session.poll_quic() {
            if let QuicOutput::Close { code: it, .. } = output {
                code = Some(it);
            }
        }
        code
    }
}

const BOTH: [Role; 2] = [Role::Client, Role::Server];

#[test]
fn more_than_the_burden_within_a_period_ends_the_connection() {
    for role in BOTH {
        let mut flooded = Flooded::new(role);
        flooded.unknown(role, 50);
        assert_eq!(flooded.timer(), None, "half of it costs no timer");
        flooded.unknown(role, 50);
        let arm = TimerOp::Arm {
            timer: Timer::Burden,
            after: PERIOD,
        };
        assert_eq!(flooded.timer(), Some(arm));
        assert_eq!(flooded.closed(), None);
        flooded.unknown(role, 1);
        // 9114-10.5-01, 9114-10.5-02
        assert_eq!(flooded.closed(), Some(H3Code::EXCESSIVE_LOAD));
    }
}

#[test]
fn what_comes_slowly_is_no_burden() {
    for role in BOTH {
        let mut flooded = Flooded::new(role);
        for _ in 0..20 {
            flooded.unknown(role, 90);
            assert!(flooded.timer().is_some());
            flooded.session.handle_timer(Timer::Burden);
            assert_eq!(flooded.closed(), None);
        }
    }
}

#[test]
fn a_request_taken_back_weighs_more_than_a_frame() {
    let role = Role::Server;
    let mut flooded = Flooded::new(role);
    for index in 0.. {
        let stream = StreamId::nth(Role::Client, Direction::Bidirectional, index);
        let code = H3Code::REQUEST_CANCELLED.0;
        flooded
            .session
            .handle_quic(QuicInput::Reset { stream, code });
        if let Some(code) = flooded.closed() {
            assert_eq!((index, code), (6, H3Code::EXCESSIVE_LOAD));
            break;
        }
    }
}

#[test]
fn a_period_is_not_begun_anew_by_what_comes_in_it() {
    for role in BOTH {
        let mut flooded = Flooded::new(role);
        flooded.unknown(role, 51);
        assert!(flooded.timer().is_some(), "it begins");
        flooded.unknown(role, 10);
        assert_eq!(flooded.timer(), None);
    }
}
