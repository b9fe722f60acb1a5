//! Compiles masque-core's wire and session layers where there is no standard library.
//!
//! A panic handler is a lang item and may exist once. This crate defines one, std defines another: as
//! soon as anything below links std, the build ends with "found duplicate lang item `panic_impl`".
//! `--features with-std` does so on purpose; `checks/run` expects that build to fail.
//!
//! Nothing here is meant to be run. It calls into each layer so that the code is generated.
#![no_std]

extern crate alloc;
#[cfg(feature = "with-std")]
extern crate std;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::net::IpAddr;
use core::panic::PanicInfo;
use core::ptr;

use bytes::Bytes;
use masque_core::session::{
    Command, Event, QuicInput, QuicOutput, Session, SessionConfig, TimerOp, TunnelRequest,
};
use masque_core::trace::TraceEvent;
use masque_core::wire::capsule::{Capsule, CapsuleDecoder, CapsuleEvent, CapsuleLimits};
use masque_core::wire::fields::{FieldList, RequestHead};
use masque_core::wire::frame::FrameDecoder;
use masque_core::wire::ip::{self, PacketInfo};
use masque_core::wire::offload::{Coalescer, VnetHdr};
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::qpack;
use masque_core::wire::stream::Role;
use masque_core::wire::template::UriTemplate;

/// Has no memory to give: what runs here ends at its first allocation.
struct NoMemory;

// SAFETY: no block is ever given out, so none can be used or freed wrongly.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Every codec once.
///
/// # Safety
/// `data` points at `len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn masque_wire(data: *const u8, len: usize) -> usize {
    // SAFETY: the caller's promise.
    let input = unsafe { core::slice::from_raw_parts(data, len) };
    let mut bytes = Bytes::copy_from_slice(input);
    let mut found = 0;
    let mut capsules = CapsuleDecoder::new(CapsuleLimits::default());
    let mut again = Vec::new();
    while let Ok(Some(event)) = capsules.decode(&mut bytes) {
        found += 1;
        if let CapsuleEvent::Capsule(capsule) = event {
            Capsule::encode(&capsule, &mut again);
        }
    }
    let mut frames = FrameDecoder::new(1 << 10);
    while let Ok(Some(_)) = frames.decode(&mut bytes) {
        found += 1;
    }
    if let Ok(fields) = qpack::decode(input, 1 << 10) {
        qpack::encode(&fields, &mut again);
        found += usize::from(RequestHead::parse(fields).is_ok());
    }
    if let Ok(text) = core::str::from_utf8(input) {
        found += usize::from(UriTemplate::parse(text).is_ok());
        found += usize::from(
            text.parse::<IpAddr>()
                .is_ok_and(|ip| IpPrefix::host(ip).is_host()),
        );
    }
    found += usize::from(PacketInfo::parse(input).is_ok());
    found += usize::from(ip::hop_limit(input).is_some());
    let mut coalescer = Coalescer::new(4, true, true);
    coalescer.push(input);
    coalescer.flush();
    while let Some(frame) = coalescer.pop() {
        found += usize::from(frame.header() == VnetHdr::default());
    }
    found + again.len()
}

/// A session driven through its whole surface.
#[unsafe(no_mangle)]
pub extern "C" fn masque_session(peer_datagrams: u64) -> usize {
    let mut session = Session::new(Role::Client, SessionConfig::default());
    session.set_tracing(true);
    session.handle_quic(QuicInput::Connected {
        peer_max_datagram_frame_size: Some(peer_datagrams),
    });
    let request = UriTemplate::parse("https://proxy.example/vpn")
        .ok()
        .map(|template| TunnelRequest {
            authority: template.authority().into(),
            path: "/vpn".into(),
            protocol: "connect-ip".into(),
            scope: Default::default(),
            fields: FieldList::default(),
        });
    let tunnel = request.and_then(|request| session.open_tunnel(request).ok());
    let mut seen = 0;
    while let Some(output) = session.poll_quic() {
        if let QuicOutput::Write { stream, data } = output {
            let bytes = data.len();
            session.handle_quic(QuicInput::Written { stream, bytes });
        }
        seen += 1;
    }
    while let Some(TimerOp::Arm { timer, .. } | TimerOp::Disarm { timer }) = session.poll_timer() {
        session.handle_timer(timer);
    }
    while let Some(event) = session.poll_event() {
        seen += usize::from(event != Event::GoAway);
    }
    if let Some(tunnel) = tunnel {
        seen += usize::from(session.datagram_header(tunnel).is_some());
    }
    seen += usize::from(session.handle_command(Command::Shutdown).is_ok());
    let trace: Vec<TraceEvent> = session.take_trace();
    seen + trace.len()
}
