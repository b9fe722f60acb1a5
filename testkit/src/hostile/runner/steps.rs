//! The steps of a script, one after the other.

use crate::hostile::bytes::{Change, Frame, Made, Piece};
use crate::hostile::script::{Answered, Capsule, Settings, Start, Step, Subject, Write};

/// What goes before a script's own steps.
pub(super) fn prelude(start: Start, subject: Subject) -> Vec<Step> {
    let mut steps = Vec::new();
    if start == Start::Quic {
        return steps;
    }
    let settings = match subject {
        Subject::Server => vec![(0x33, 1)],
        Subject::Client => vec![(0x8, 1), (0x33, 1)],
    };
    let settings = Piece::Made(Made::Settings(settings));
    steps.push(write(
        "control",
        vec![Piece::Hex("00".to_owned()), settings],
    ));
    steps.push(write("encoder", vec![Piece::Hex("02".to_owned())]));
    steps.push(write("decoder", vec![Piece::Hex("03".to_owned())]));
    steps.push(Step::Settings(Settings::default()));
    match (start, subject) {
        (Start::Tunnel | Start::Head, Subject::Client) => steps.push(Step::Asked),
        (Start::Tunnel, Subject::Server) => {
            let request = Piece::Made(Made::Request(Change::default()));
            steps.push(write("request", vec![request]));
        }
        _ => {}
    }
    match (start, subject) {
        (Start::Tunnel, Subject::Client) => {
            let response = Piece::Made(Made::Response(Change::default()));
            steps.push(write("request", vec![response]));
        }
        (Start::Tunnel, Subject::Server) => steps.push(Step::Answered(Answered {
            stream: "request".to_owned(),
            status: Vec::new(),
            fields: Vec::new(),
            without: Vec::new(),
            strict: true,
            within: None,
        })),
        _ => {}
    }
    steps
}

/// Takes `Times` and `TunnelAlive` apart.
pub(super) fn expand(steps: &[Step], turn: Option<u32>, probes: &mut u64, out: &mut Vec<Step>) {
    let named =
        |name: &str| turn.map_or_else(|| name.to_owned(), |n| name.replace('#', &n.to_string()));
    for step in steps {
        let mut step = step.clone();
        match &mut step {
            Step::Times(times) => {
                for turn in 1..=times.count {
                    expand(&times.steps, Some(turn), probes, out);
                }
                continue;
            }
            Step::TunnelAlive => {
                *probes += 1;
                // For any IPv4 address.
                let request = Piece::Made(Made::Capsule(Frame {
                    ty: 2,
                    length: None,
                    of: vec![
                        Piece::Made(Made::Varint(*probes)),
                        Piece::Hex("040000000020".to_owned()),
                    ],
                }));
                let data = Piece::Made(Made::Data(vec![request]));
                out.push(write("request", vec![data]));
                out.push(Step::Capsule(Capsule {
                    stream: "request".to_owned(),
                    ty: 1,
                    id: Some(*probes),
                    refused: None,
                    value: None,
                    within: None,
                }));
                continue;
            }
            Step::Write(it) => it.stream = named(&it.stream),
            Step::Send(it) => it.stream = it.stream.as_deref().map(named),
            Step::Reset(it) | Step::Stop(it) => it.stream = named(&it.stream),
            Step::Aborted(it) => it.stream = named(&it.stream),
            Step::Answered(it) => it.stream = named(&it.stream),
            Step::Capsule(it) => it.stream = named(&it.stream),
            Step::Held(it) => it.stream = named(&it.stream),
            Step::Hold(it) | Step::Datagram(it) | Step::Finished(it) => *it = named(it),
            _ => {}
        }
        out.push(step);
    }
}

fn write(stream: &str, bytes: Vec<Piece>) -> Step {
    Step::Write(Write {
        stream: stream.to_owned(),
        bytes,
        split: 0,
        every: 0,
        fin: false,
        may_block: false,
    })
}
