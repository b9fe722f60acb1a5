//! For those who have a node say what no honest endpoint would: its capsules changed on their way out,
//! and bytes put onto the streams of its tunnels.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use masque_core::endpoint::{Endpoint, TunnelHandle};
use masque_core::wire::frame::{self, FrameType};

use super::{Input, NodeId, World};

/// What becomes of a capsule that a node is about to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is not sent.
    Drop,
    /// It is sent so much later, behind whatever is sent meanwhile; not if its tunnel has ended by then.
    Delay(Duration),
    /// Other bytes from byte `at` on, its type being byte 0. Left as it is if it is shorter than that.
    Edit {
        /// Where.
        at: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// These bytes are sent instead.
    Replace(Vec<u8>),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("dropped"),
            Self::Delay(by) => write!(f, "delayed by {} us", by.as_micros()),
            Self::Edit { at, bytes } => {
                write!(f, "{} bytes changed from byte {at} on", bytes.len())
            }
            Self::Replace(bytes) => write!(f, "replaced by {} bytes", bytes.len()),
        }
    }
}

/// What met its fate.
struct Met {
    tunnel: TunnelHandle,
    capsule: Vec<u8>,
    fate: Fate,
    misses: bool,
}

/// What is in store for the next capsules of a node, and what came of it.
#[derive(Default)]
struct Store {
    fates: VecDeque<Fate>,
    met: Vec<Met>,
}

/// Stands where a node's capsules go out.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<Store>>);

impl Gate {
    /// Nothing that holds the lock panics.
    fn store<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn stand_at(&self, endpoint: &mut Endpoint) {
        let gate = self.clone();
        endpoint.set_capsule_tap(Arc::new(move |tunnel, capsule| {
            gate.store(|store| store.pass(tunnel, capsule));
        }));
    }
}

impl Store {
    fn pass(&mut self, tunnel: TunnelHandle, capsule: &mut Vec<u8>) {
        let Some(fate) = self.fates.pop_front() else {
            return;
        };
        let before = capsule.clone();
        let mut misses = false;
        match &fate {
            Fate::Drop | Fate::Delay(_) => capsule.clear(),
            Fate::Edit { at, bytes } => {
                let end = at.checked_add(bytes.len());
                let place = end.and_then(|end| capsule.get_mut(*at..end));
                misses = place.is_none();
                if let Some(place) = place {
                    place.copy_from_slice(bytes);
                }
            }
            Fate::Replace(bytes) => capsule.clone_from(bytes),
        }
        self.met.push(Met {
            tunnel,
            capsule: before,
            fate,
            misses,
        });
    }
}

/// Capsules in a DATA frame, as they stand on a stream.
#[must_use]
pub fn in_data_frame(capsules: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(capsules.len() + 9);
    frame::encode_header(FrameType::Data, capsules.len(), &mut framed);
    framed.extend_from_slice(capsules);
    framed
}

impl World {
    /// Decides about the next capsule, other than DATAGRAM, that a node sends and that nothing has been
    /// decided about.
    ///
    /// # Panics
    /// If `node` is of another world.
    pub fn decide(&mut self, node: NodeId, fate: Fate) {
        self.watch_nothing();
        let node = &mut self.nodes[node.0];
        if node.gate.is_none() {
            let gate = node.gate.insert(Gate::default());
            if let Some(endpoint) = &mut node.endpoint {
                gate.stand_at(endpoint);
            }
        }
        if let Some(gate) = &node.gate {
            gate.store(|store| store.fates.push_back(fate));
        }
    }

    /// What is decided about the next capsules of a node.
    ///
    /// # Panics
    /// If `node` is of another world.
    #[must_use]
    pub fn decided(&self, node: NodeId) -> Vec<Fate> {
        let gate = self.nodes[node.0].gate.as_ref();
        gate.map_or_else(Vec::new, |gate| {
            gate.store(|store| store.fates.iter().cloned().collect())
        })
    }

    /// Says what became of capsules, and sends later what is to be sent later.
    pub(super) fn fates_met(&mut self, id: NodeId) {
        let gate = self.nodes[id.0].gate.as_ref();
        let Some(met) = gate.map(|gate| gate.store(|store| std::mem::take(&mut store.met))) else {
            return;
        };
        for met in met {
            let (tunnel, length) = (met.tunnel, met.capsule.len());
            let fate = &met.fate;
            let words = match met.misses {
                true => "left as it is".to_owned(),
                false => fate.to_string(),
            };
            let words = format!("capsule of {tunnel}, {length} bytes: {words}");
            self.log(id, words);
            if let Fate::Delay(by) = fate {
                let data = in_data_frame(&met.capsule);
                let input = Input::Raw {
                    node: id,
                    tunnel,
                    data,
                };
                self.schedule(self.now + *by, input);
            }
        }
    }
}
