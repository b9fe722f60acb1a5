//! Nothing is allocated in proportion to a length that was announced and has not come: every decoder of
//! the wire layer, with no limit that could hide it, on bytes in which every number may be one too large.
//!
//! The tests of this file take turns: they count what the whole process allocates.

use std::alloc::System;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use masque_core::wire::capsule::{CapsuleDecoder, CapsuleLimits};
use masque_core::wire::fields::{RequestHead, ResponseHead};
use masque_core::wire::frame::{FrameDecoder, FrameEvent};
use masque_core::wire::qpack::{self, DecoderStream, EncoderStream, huffman, prefix_int};
use masque_core::wire::settings::Settings;
use masque_core::wire::varint::VarInt;
use masque_core::wire::{datagram, ip};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static TURN: Mutex<()> = Mutex::new(());

/// For every byte that has come. A field may be a single byte, and is kept with its name, its value and a
/// place in a list that doubles; what was given back since counts as well.
const PER_BYTE: usize = 1024;
/// Beside them.
const ALWAYS: usize = 1024;

/// What `decode` allocates, everything it gives back meanwhile included.
fn allocated(decode: impl FnOnce()) -> usize {
    let region = Region::new(HEAP);
    decode();
    let change = region.change();
    let grown = usize::try_from(change.bytes_reallocated).unwrap_or(0);
    change.bytes_allocated + grown
}

/// Bytes between which large numbers stand, in each form that numbers have on the wire.
fn announcing() -> impl Strategy<Value = Vec<u8>> {
    let large = prop_oneof![
        // QUIC's variable-length integers.
        any::<u64>().prop_map(|it| (it | 3 << 62).to_be_bytes().to_vec()),
        any::<u32>().prop_map(|it| (it | 2 << 30).to_be_bytes().to_vec()),
        any::<u16>().prop_map(|it| (it | 1 << 14).to_be_bytes().to_vec()),
        // QPACK's, of every prefix.
        (any::<u8>(), 0..9usize).prop_map(|(first, more)| {
            let mut bytes = vec![first | 0x7f];
            bytes.extend(std::iter::repeat_n(0xff, more));
            bytes.push(0x7f);
            bytes
        }),
    ];
    let piece = prop_oneof![
        3 => (0..=9u8).prop_map(|ty| vec![ty]),
        3 => large,
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Gives `bytes` to a decoder in pieces.
fn in_pieces(bytes: &[u8], size: usize, mut take: impl FnMut(&mut Bytes) -> bool) {
    for piece in bytes.chunks(size.max(1)) {
        let mut input = Bytes::copy_from_slice(piece);
        if !take(&mut input) {
            return;
        }
    }
}

/// The same, alone in the process but for what runs the tests: that may do something meanwhile, not every
/// time.
fn least_allocated(decode: impl Fn()) -> usize {
    let times = (0..3).map(|_| allocated(&decode));
    times.min().unwrap_or(0)
}

fn is_in_proportion(bytes: &[u8], decode: impl Fn()) -> Result<(), TestCaseError> {
    let most = PER_BYTE * bytes.len() + ALWAYS;
    let held = least_allocated(decode);
    prop_assert!(held <= most, "{held} bytes for {} that came", bytes.len());
    Ok(())
}

/// Tries a property while no other test of this file runs.
fn for_all<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = TestRunner::default().run(&strategy, test) {
        panic!("{error}");
    }
}

const NO_LIMIT: CapsuleLimits = CapsuleLimits {
    max_value: usize::MAX,
    max_datagram: usize::MAX,
    max_entries: usize::MAX,
};

#[test]
fn capsules() {
    for_all((announcing(), 1..20usize), |(bytes, size)| {
        is_in_proportion(&bytes, || {
            let mut decoder = CapsuleDecoder::new(NO_LIMIT);
            in_pieces(&bytes, size, |input| {
                loop {
                    match decoder.decode(input) {
                        Ok(Some(event)) => drop(black_box(event)),
                        Ok(None) => return true,
                        Err(_) => return false,
                    }
                }
            });
        })?;
        Ok(())
    });
}

#[test]
fn frames_and_what_is_in_them() {
    for_all((announcing(), 1..20usize), |(bytes, size)| {
        is_in_proportion(&bytes, || {
            let mut decoder = FrameDecoder::new(usize::MAX);
            in_pieces(&bytes, size, |input| {
                loop {
                    match decoder.decode(input) {
                        Ok(Some(FrameEvent::Headers(section))) => {
                            let _ = black_box(qpack::decode(&section, usize::MAX));
                        }
                        Ok(Some(event)) => drop(black_box(event)),
                        Ok(None) => return true,
                        Err(_) => return false,
                    }
                }
            });
        })?;
        Ok(())
    });
}

#[test]
fn settings() {
    for_all(announcing(), |bytes| {
        is_in_proportion(&bytes, || drop(black_box(Settings::decode(&bytes))))?;
        Ok(())
    });
}

#[test]
fn field_sections_and_their_strings() {
    for_all(announcing(), |bytes| {
        let section = [&[0, 0], &bytes[..]].concat();
        is_in_proportion(&section, || {
            if let Ok(fields) = qpack::decode(&section, usize::MAX) {
                let _ = black_box(RequestHead::parse(fields.clone()));
                let _ = black_box(ResponseHead::parse(fields));
            }
        })?;
        is_in_proportion(&bytes, || drop(black_box(huffman::decode(&bytes))))?;
        Ok(())
    });
}

#[test]
fn qpack_streams() {
    for_all((announcing(), 1..20usize), |(bytes, size)| {
        is_in_proportion(&bytes, || {
            let (mut encoder, mut decoder) = (EncoderStream::default(), DecoderStream::default());
            in_pieces(&bytes, size, |input| encoder.feed(input).is_ok());
            in_pieces(&bytes, size, |input| decoder.feed(input).is_ok());
        })?;
        Ok(())
    });
}

#[test]
fn numbers_datagrams_and_packets_cost_nothing_at_all() {
    for_all(announcing(), |bytes| {
        let held = least_allocated(|| {
            black_box(VarInt::decode(&bytes));
            for prefix in (1..=8).filter_map(prefix_int::Prefix::new) {
                let _ = black_box(prefix_int::decode(prefix, &bytes));
            }
            let _ = black_box(datagram::open(&bytes));
            black_box(datagram::open_context(&bytes));
            let _ = black_box(ip::PacketInfo::parse(&bytes));
        });
        prop_assert_eq!(held, 0);
        Ok(())
    });
}

/// The count sees what it is to see.
#[test]
fn what_is_allocated_for_a_length_would_be_seen() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(allocated(|| drop(black_box(Vec::<u8>::with_capacity(1 << 20)))) >= 1 << 20);
    let mut list = vec![0u8; 10];
    assert!(allocated(|| black_box(&mut list).reserve_exact(1 << 20)) >= 1 << 20);
}
